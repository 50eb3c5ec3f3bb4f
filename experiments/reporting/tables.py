"""Titles of the experiments' rows and headings of their metrics."""

from autofusion_jax.evaluation.tables import method_title, metric_heading, variant_title

LABELS = {
    "start": "Where training started",
    "control_ridge_head": "A's body, ridge head on pseudo-labels (control)",
    "control_distillation": "Average, distilled on pseudo-labels (control)",
    "real_labels_finetuning": "Average, fine-tuned on the inputs' real labels (reference)",
    "real_labels_lora": "Average, LoRA on the inputs' real labels (reference)",
    "real_labels_training": "Trained on all real labels (reference)",
}
HEADINGS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar10_28": "CIFAR-10 (28 x 28)",
    "digits_28": "Digits (28 x 28)",
    "seen": "Seen",
    "unseen": "Unseen",
    "scaled": "Scaled (%)",
    "classification": "Classification (%)",
    "reconstruction": "Reconstruction error",
    "edges": "Edge error",
    "denoising": "Denoising error",
    "man_language": "Language",
    "man_section": "Section",
    "fortunes": "Fortunes",
    "cka": "CKA",
    "unit_correlation": "Unit correlation",
}


def heading(metric: str) -> str:
    """What a table calls a metric.

    Example:
        >>> heading("task_a"), heading("kmnist"), heading("task_c"), heading("kmnist_within")
        ('Task A', 'KMNIST', 'Task C', 'KMNIST within')
    """
    name = metric.removesuffix("_within")
    if name not in HEADINGS:
        return metric_heading(metric)
    return f"{HEADINGS[name]} within" if metric != name else HEADINGS[name]


def row_title(row: str) -> str:
    """What a table calls a row, without its variant."""
    return LABELS.get(row) or method_title(row)


def title_of(method: str, variant: str | None) -> str:
    """What a table, figure or page calls a method; an unknown one by its name in words.

    Example:
        >>> title_of("autofusion", "soft"), title_of("model_b", None), title_of("control_one_more", None)
        ('AutoFusion, soft', 'Model B', 'Control one more')
    """
    return variant_title(method, variant, row_title)
