"""The protocol of a merging method: the task that it gets, and the record of what it is."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec

from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import any_of, checked_arguments, instance
from autofusion_jax.merging.progress import OnProgress
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import unknown_name

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class MergeTask:
    """The networks to merge and all that is known of them, checked.

    What a caller may leave out is None here. A method that cannot do without asks for it by
    `require_NAME()`, which returns it or raises the one error that says how to give it: so each thing
    has one name, and no method checks for itself.

    Attributes:
        models: the networks' parameters, A first.
        perm_spec: their permutation spec, or None.
        apply_fn: the function of the networks, or None.
        x: unlabelled inputs `[N, ...]`, or None.
        y: labels `[N]` that a method can use, or None.
        base: the network that all were fine-tuned from, or None.
        on_progress: called as `on_progress(done, total)` now and then, or None.
    """

    models: tuple[Params, ...]
    perm_spec: PermSpec | None = None
    apply_fn: ApplyFn | None = None
    x: Array | None = None
    y: Array | None = None
    base: Params | None = None
    on_progress: OnProgress | None = None

    def require_perm_spec(self) -> PermSpec:
        """The permutation spec; ValueError if there is none."""
        if self.perm_spec is None:
            raise ValueError(
                "merge: this method moves or measures hidden units, so perm_spec must be a PermSpec; "
                "got None. Give infer_perm_spec(apply_fn, params, x)."
            )
        return self.perm_spec

    def require_base(self) -> Params:
        """The network that all were fine-tuned from; ValueError if it was not given."""
        if self.base is None:
            raise ValueError(
                "merge: this method adds up what fine-tuning changed, so base must be the parameters that "
                "all networks were fine-tuned from; got None. Give base=..., or take a method without "
                'one, such as "average".'
            )
        return self.base

    def require_apply_fn(self) -> ApplyFn:
        """The networks' function; ValueError if there is none."""
        if self.apply_fn is None:
            raise ValueError(
                "merge: this method runs the networks, so perm_spec must carry an apply_fn; got none. "
                "Give apply_fn=f, PermSpec(..., apply_fn=f) or dataclasses.replace(spec, apply_fn=f)."
            )
        return self.apply_fn

    def require_x(self) -> Array:
        """The inputs; ValueError if there are none."""
        if self.x is None:
            raise ValueError("merge: this method needs inputs: batch must be an array [N, ...]; got None.")
        return self.x


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to merge, with its options bound.

    Attributes:
        name: its name in the registry.
        run: takes a `MergeTask` and a random key, returns a `MergeResult`.
        run_repeats: the same for several keys at once, where that is quicker than one after another
            (`repeats.merge_for_keys` calls it, and nothing else does).
        uses_key: False if every key gives the same result.
        max_models: the largest number of networks it takes at once, or None for any.
        min_models: the smallest number of networks it takes: 1 if it makes more of a single one.
        assumes_aligned: True if it takes unit i of one network for unit i of every other: networks of
            different initialisation must be aligned before.
        needs_base: True if it cannot do without the network that all were fine-tuned from.
        changes_program: True if the merged network is another program than the networks', with
            parameters of another structure: an ensemble, a mixture, one head for each task.
        propagates_nan: True if a NaN or an infinity in any network always reaches the result, so that only
            the result need be searched for them: a pass over one network instead of all.
        granularity: what an entry of the merged network depends on: `"entry"`, the same entry of each
            network; `"leaf"`, the same leaf; `"network"`, more than that. `merge_files` reads no more
            at a time, and gives `run` a part as a network of one leaf.
        options: all its options by name, defaults too.
    """

    name: str
    run: Callable[[MergeTask, Key[Array, ""]], MergeResult]
    run_repeats: Callable[[MergeTask, Key[Array, " repeats"]], Sequence[MergeResult]] | None = None
    uses_key: bool = True
    max_models: int | None = 2
    min_models: int = 2
    assumes_aligned: bool = False
    needs_base: bool = False
    changes_program: bool = False
    propagates_nan: bool = False
    granularity: Literal["entry", "leaf", "network"] = "network"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


Named = Annotated[str | Method, any_of(instance(str, "the name of a method"), instance(Method, "a Method"))]


def factory(build: Callable[P, Method]) -> Callable[P, Method]:
    """Have a factory's options checked by its annotations (see `arguments`), and recorded in what it builds.

    Raises:
        ValueError: an option is unknown, or not what it must be.
    """
    known = inspect.signature(build).parameters

    @functools.wraps(build)
    def build_checked(*args: P.args, **kwargs: P.kwargs) -> Method:
        for option in kwargs:
            if option not in known:
                raise unknown_name(build.__name__, "option", option, known)
        bound = checked_arguments(build, args, kwargs)
        method = build(*bound.args, **bound.kwargs)
        bound.apply_defaults()
        return dataclasses.replace(method, options=bound.arguments)

    return build_checked
