"""FusionBench, Table 14: T5 answers questions about texts in words, two tasks. Here on bytes.

Command: `python experiments/reproduce.py --table=fusion_text_to_text`
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from autofusion_jax.evaluation.results import Summary
from autofusion_jax.models.registry import Model
from autofusion_jax.models.t5 import END, greedy_decode
from autofusion_jax.types import Params
from configs.models import build, model_config
from configs.schema import DataConfig, MergeConfig
from data.registry import load_dataset
from data.text import PAD, encode
from pipeline.endpoints import Run
from pipeline.headed_pair import HeadedPair, open_tasks
from pipeline.headed_training import draw_roles, get_trained, key_of
from pipeline.networks import Training
from pipeline.rows import Row
from pipeline.split import MODEL_ROLES
from tables.fusion import INDIVIDUAL, PAPER, REGMEAN, START, TASK_ARITHMETIC
from tables.fusion_backbones import AVERAGE, TIES, seen, trained
from tables.fusion_text import ABOUT_TASKS, BYTES, TextConfig, text_of_task
from tables.schema import Panel, Table
from training.loop import TrainOptions
from training.losses import UNSCORED, token_cross_entropy

ANSWERS = {
    "man_language": ("German", "English", "Spanish", "French", "Italian", "Dutch", "Polish", "Portuguese",
                     "Russian"),
    "man_section": ("call", "function", "file", "overview"),
}  # fmt: skip
"""Task -> what is to be written for each class."""
QUESTIONS = {"man_language": "language: ", "man_section": "section: "}
"""Task -> what stands before every text."""
PREFIX = max(map(len, QUESTIONS.values()))
ANSWER = max(len(word) for words in ANSWERS.values() for word in words) + 1
"""Tokens of the longest answer, with its end."""


def questions(task: str, tokens: np.ndarray) -> np.ndarray:
    """Texts `[N, tokens]` with the task's question before them, `[N, PREFIX + tokens]`."""
    prefix = encode([QUESTIONS[task]], len(QUESTIONS[task]))[0].astype(np.int32)
    whole = np.concatenate([np.broadcast_to(prefix, (len(tokens), len(prefix))), tokens], axis=1)
    return np.pad(whole, ((0, 0), (0, PREFIX - len(prefix))), constant_values=PAD)


def answers(words: Sequence[str]) -> np.ndarray:
    """The tokens of words `[N, ANSWER]`, each with its end."""
    return encode([word + chr(END) for word in words], ANSWER).astype(np.int32)


def rows(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a T5 reads, source and decoder input in one row, and what it is to write, up to the end."""
    inputs = np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    return np.concatenate([source, inputs], axis=1), np.where(target == PAD, UNSCORED, target)


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTask:
    """A task whose answers are written; a `pipeline.headed_pair.Task`.

    Its measure is the percentage of test questions that are answered to the letter, by greedy decoding; the
    floor that of the most frequent answer.

    Attributes:
        name: what tables call it.
        x: questions, and decoder inputs, that merges see.
        model: the network.
        source: test questions.
        target: their answers.
    """

    name: str
    x: Array
    model: Model
    source: Array
    target: np.ndarray

    in_percent = True

    @property
    def floor(self) -> float:
        """The measure of the most frequent answer."""
        return 100.0 * float(np.unique(self.target, axis=0, return_counts=True)[1].max() / len(self.target))

    def measure(self, params: Params, perm: Array | None) -> float:
        """See `pipeline.headed_pair.Task`; `perm` is None, for there is no head apart."""
        module: Any = self.model.module
        written = greedy_decode(module, params, self.source, max_len=ANSWER)
        return 100.0 * float(np.mean((np.asarray(written) == self.target).all(1)))


def open_run(config: Any, console: Console) -> Run:
    """The joined data sets, and networks fine-tuned on each."""
    data = load_dataset(config.data.name, folder=config.data.dir, report=lambda line: console.print(line))
    source_len = PREFIX + config.tokens
    sizes = {"vocab": BYTES, "source_len": source_len, "decoder_depth": config.model.depth}
    model = build(config.model, (source_len + ANSWER,), **sizes)
    names = tuple(config.data.name.split("+"))

    def open_number(run: Run, number: int) -> HeadedPair:
        split = draw_roles(run, number, names)
        texts = [text_of_task(config, data, place, split.seed) for place in range(len(names))]

        def pretrain(seed: int) -> Training:
            start = model.init(key_of(split, "pretrained"))
            passages = np.concatenate([x for x, *_ in texts])
            read, written = rows(*_continuations(passages, source_len))
            return Training(model.apply, start, read, written, config.pretrain, seed, token_cross_entropy)

        base, _ = get_trained(run, split, "pretrained", pretrain)
        share, models, seconds, tasks = config.data.num_unlabelled // len(names), [], [], []
        for role, name, (x, y, test_x, test_y) in zip(MODEL_ROLES, names, texts):
            read, written = rows(questions(name, x), answers([ANSWERS[name][k] for k in y]))

            def tune(seed: int, read: np.ndarray = read, written: np.ndarray = written) -> Training:
                return Training(model.apply, base, read, written, config.train, seed, token_cross_entropy)

            params, took = get_trained(run, split, role, tune)
            models.append(params)
            seconds.append(took)
            asked = jnp.asarray(questions(name, test_x))
            wanted = answers([ANSWERS[name][k] for k in test_y])
            tasks.append(AnswerTask(name, jnp.asarray(read[:share]), model, asked, wanted))
        x = jnp.concatenate([task.x for task in tasks])
        return open_tasks(run, split, models, seconds, tasks, base, x)

    test_x = jnp.asarray(data.test_images)
    return Run(config, data, model, test_x, console, data.sha256, data.notes, open_number)


def _continuations(passages: np.ndarray, source_len: int) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of passages as sources, and the tokens that follow them as targets."""
    ends = passages.shape[1] - ANSWER
    source = np.pad(passages[:, :ends], ((0, 0), (0, source_len - ends)), constant_values=PAD)
    return source, passages[:, ends:]


def get_config() -> TextConfig:
    return TextConfig(
        name="fusion_text_to_text",
        data=DataConfig("+".join(ANSWERS), num_train=8000, num_validation=0, num_unlabelled=400),
        model=model_config("t5", dim=64, depth=2, num_heads=4, head_dim=16, mlp_dim=128),
        train=TrainOptions(epochs=4, batch_size=64, learning_rate=2e-3, segment=50),
        pretrain=TrainOptions(epochs=2, batch_size=64, learning_rate=2e-3, segment=50),
        merge=MergeConfig(repeats=1),
        seed=100,
        test_inputs=500,
    )


def caption(config: Any, rows: Mapping[str, Summary]) -> list[str]:
    model = config.model
    return [
        f"Ours, to show that the path works, no more: a T5 of dimension {model.dim}, {model.depth} blocks on "
        f"each side, {model.num_heads} heads and {model.mlp_dim} hidden units, on the first {config.tokens} "
        "bytes of passages, no tokenizer. Pretrained to write how a passage goes on "
        f"({trained(config.pretrain)}), then fine-tuned on each task, up to "
        f"{config.data.num_train // len(ANSWERS):,} passages ({trained(config.train)}). The whole network is "
        f"merged. {seen(config, len(ANSWERS))}",
        f"{ABOUT_TASKS} The question stands before the passage ({', '.join(map(repr, QUESTIONS.values()))}), "
        f"the answer is a word ({', '.join(ANSWERS['man_section'])}; names of languages). Percentage of "
        f"{config.test_inputs:,} test passages that greedy decoding answers to the letter.",
        f"The form is that of {PAPER}, Table 14 (Flan-T5, eight tasks of GLUE), whose numbers are of other "
        "tasks and networks and are not comparable. Task arithmetic and TIES add 0.3 of the sum of task "
        "vectors.",
    ]


ROWS = (
    START,
    INDIVIDUAL,
    Row("model_a", "Fine-tuned on language"),
    Row("model_b", "Fine-tuned on section"),
    AVERAGE,
    REGMEAN,
    TASK_ARITHMETIC,
    TIES,
)

TABLE = Table(
    name="fusion_text_to_text",
    title="FusionBench, Table 14: text to text, two tasks (tiny T5)",
    panels=(
        Panel(
            name="", title="", metrics=(*ANSWERS, "avg"), rows=ROWS, get_config=get_config,
            caption=caption, open_run=open_run, costs=True,
        ),
    ),
)  # fmt: skip
