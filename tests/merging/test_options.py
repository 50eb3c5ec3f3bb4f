"""Options that are refused when a method is made: one clear line, before any network is looked at."""

import pytest

import autofusion_jax as af

SCALE = ({"scale": 0.0}, "scale must be > 0; got 0.0")
RATE = ({"learning_rate": 0.0}, "learning_rate must be > 0")
STEPS = ({"num_steps": 0}, "num_steps must be >= 1; got 0")
EPOCHS = ({"epochs": 0}, "epochs must be >= 1; got 0")
BATCH = ({"batch_size": 0}, "batch_size must be >= 1")
RIDGE = ({"ridge": 0.0}, "ridge must be > 0; got 0")
GAMMA = ({"gamma": 1.5}, r"gamma must be in \[0, 1\]")

REFUSED = {
    "activation_matching": [({"kind": "pearson"}, "unknown kind 'pearson'"), GAMMA],
    "adamerging": [
        ({"level": "layers"}, "unknown level 'layers'. Did you mean 'layer'"), SCALE, RATE, STEPS, BATCH,
    ],
    "autofusion": [
        ({"tau": 0.0}, "tau must be > 0; got 0.0"),
        ({"num_iters": 0}, "num_iters must be >= 1; got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"gamma": "normal"}, r"gamma must be in \[0, 1\], \"uniform\", or \"learned\""),
        ({"gamma": "learnt"}, 'gamma must be in .*"learned"; got'),
        ({"zeta": 1.0}, r"zeta must be in \[0, 1\)"),
        ({"strategy": "normalised"}, "unknown strategy 'normalised'. Did you mean 'normalized'"),
        ({"layer_weighting": "quadratic"}, "unknown layer_weighting"),
        ({"start": "zero"}, "unknown start 'zero'"),
        ({"augment": "rotate"}, "unknown augment 'rotate'"),
        ({"mixing_rate": 0.0}, "mixing_rate must be > 0; got 0.0"),
        ({"pseudo_labels": "eM"}, "unknown pseudo_labels 'eM'. Did you mean 'em'"),
    ],
    "breadcrumbs": [
        ({"density": 1.5}, r"density must be in \(0, 1\].* got 1.5"),
        ({"outliers": 1.0}, r"outliers must be in \[0, 1\).* got 1.0"),
        ({"merge": "dare"}, "unknown merge 'dare'"),
    ],
    "c2m3": [
        ({"start": "identiy"}, "unknown start 'identiy'. Did you mean 'identity'"),
        ({"max_iters": 0}, "max_iters must be >= 1"),
    ],
    "concrete": [
        ({"level": "layers"}, "unknown level 'layers'. Did you mean 'layer'"),
        ({"mask": "smooth"}, "unknown mask 'smooth'"),
        ({"temperature": 0.0}, "temperature must be > 0; got 0.0"),
        ({"inner_rate": 0.0}, "inner_rate must be > 0; got 0.0"),
        SCALE, RATE, STEPS, BATCH,
    ],
    "consensus": [
        ({"selectivity": 0.0}, "selectivity must be > 0; got 0.0"),
        ({"min_networks": 0}, "min_networks must be >= 1; got 0"),
        SCALE,
    ],
    "dare": [
        ({"density": 0.0}, r"density must be in \(0, 1\].* got 0.0"),
        ({"merge": "tie"}, "unknown merge 'tie'. Did you mean 'ties'"),
        ({"merge": af.methods.zipit()}, "merge must be a method for task vectors.* got 'zipit'"),
        ({"variant": "fusionbench"}, "unknown variant 'fusionbench'"),
    ],
    "em_ensemble": [
        ({"rounds": 0}, "rounds must be >= 1; got 0"),
        ({"num_axes": 0}, "num_axes must be >= 1; got 0"), RIDGE,
    ],
    "fisher": [
        ({"variant": "fusion_bench"}, "unknown variant 'fusion_bench'. Did you mean 'fusionbench'"),
        ({"predictions": "argmx"}, "unknown predictions 'argmx'. Did you mean 'argmax'"),
        ({"weights": [2, -1]}, r"weights must be 0 or more; got \[2, -1\]"),
        ({"min_fisher": 0.0}, "min_fisher must be > 0; got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1; got 0"),
    ],
    "interpolation": [({"gamma": -0.1}, r"gamma must be in \[0, 1\]")],
    "iso_c": [SCALE],
    "iso_cts": [({"common": 1.1}, r"common must be in \[0, 1\].* got 1.1"), SCALE],
    "karcher": [
        ({"num_iters": 0}, "num_iters must be >= 1; got 0"),
        ({"tolerance": 0.0}, "tolerance must be > 0; got 0"),
    ],
    "magmax": [SCALE],
    "moe_merging": [({"experts_per_token": 0}, "experts_per_token must be >= 1; got 0"),
                    ({"variant": "mixtral"}, "unknown variant 'mixtral'")],
    "moe_upscaling": [
        ({"num_experts": 0}, "num_experts must be >= 1; got 0"),
        ({"experts_per_token": 9}, r"experts_per_token must be in \[1, 8\], the number of experts"),
        ({"experts_per_token": 0}, r"experts_per_token must be in \[1, 8\]"),
    ],
    "mudsc": [
        ({"alpha": 1.5}, "alpha must be in"),
        ({"alpha": "best"}, "alpha must be in"),
        ({"matching": "zap"}, "unknown matching 'zap'. Did you mean 'zip'"),
        ({"max_sweeps": 0}, "max_sweeps must be >= 1"),
        ({"a": 0.0}, "a must be in"),
    ],
    "multislerp": [({"weights": [1.0, -2.0]}, "weights must be finite numbers with a sum above 0")],
    "ot_fusion": [
        ({"ground": "weight"}, "unknown ground 'weight'. Did you mean 'weights'"),
        ({"reg": 0.0}, "reg must be > 0"),
        GAMMA,
    ],
    "pareto": [
        ({"variant": "eop"}, "unknown variant 'eop'. Did you mean 'epo'"),
        ({"preference": [0.5, -0.1]}, "preference must be numbers >= 0 with a sum above 0"),
        ({"preference": [0.0, 0.0]}, "preference must be numbers >= 0 with a sum above 0"),
        ({"depth": 3}, "depth must be 1 or 2; got 3"),
        ({"concentration": 0.0}, "concentration must be > 0; got 0.0"),
        SCALE, RATE, STEPS, BATCH,
    ],
    "pleas": [({"matching": "weight_machting"}, "unknown matching 'weight_machting'. Did you mean 'weight_m"),
              RIDGE],
    "prune_concat": [({"pseudo_labels": "em_"}, "unknown pseudo_labels 'em_'. Did you mean 'em'"), RIDGE],
    "prune_concat_distill": [
        ({"pseudo_labels": "emm"}, "unknown pseudo_labels 'emm'. Did you mean 'em'"),
        ({"copies": 0}, "copies must be >= 1; got 0"),
        ({"rounds": -1}, "rounds must be >= 0; got -1"),
        ({"augment": "flip"}, "unknown augment 'flip'"),
        EPOCHS,
    ],
    "regmean": [({"alpha": 1.1}, r"alpha must be in \[0, 1\]; got 1.1"), RIDGE],
    "slerp": [({"gamma": 1.5}, r"gamma must be in \[0, 1\], the weight of model A; got 1.5")],
    "smile": [
        ({"rank": 0}, "rank must be >= 1, or None"),
        ({"gate_k": 0}, "gate_k must be >= 1; got 0"),
        ({"top_k": 0}, "top_k must be >= 1; got 0"),
        ({"gate": "weights"}, "unknown gate 'weights'. Did you mean 'weight'"),
    ],
    "ste": [
        ({"gamma": 1.0}, r"gamma must be in \[0, 1\)"),
        ({"zeta": 1.0}, "zeta must be in"),
        EPOCHS, BATCH, RATE,
    ],
    "surgery": [
        ({"method": "adamergin"}, "unknown method 'adamergin'. Did you mean 'adamerging'"),
        ({"rank": 0}, "rank must be >= 1; got 0"),
        SCALE, RATE, STEPS, BATCH,
    ],
    "ties": [
        ({"density": 0.0}, r"density must be in \(0, 1\].* got 0.0"),
        ({"density": 20.0}, r"density must be in \(0, 1\].* got 20.0"),
        ({"scale": -1.0}, "scale must be > 0; got -1.0"),
        ({"merge": "average"}, "unknown merge 'average'.*Known: max, mean, sum"),
        ({"variant": "mergkit"}, "unknown variant 'mergkit'. Did you mean 'mergekit'"),
    ],
    "tsv": [SCALE],
    "weight_matching": [
        ({"max_sweeps": 0}, "max_sweeps must be >= 1"),
        ({"num_restarts": 0}, "num_restarts must be >= 1"),
        ({"start": "activations"}, "unknown start 'activations'. Did you mean 'activation'"),
    ],
    "wemoe": [
        ({"variant": "fusion"}, "unknown variant 'fusion'. Did you mean 'fusionbench'"),
        ({"depth": -1}, "depth must be >= 0, the layers of a router; got -1"),
        SCALE, RATE, STEPS, BATCH,
    ],
    "wudi": [SCALE, STEPS, RATE],
    "zipit": [
        ({"a": 0.0}, "a must be in"),
        ({"b": 1.5}, "b must be in"),
        ({"variant": "zap"}, "unknown variant 'zap'. Did you mean 'zip'"),
        ({"kind": "cosine"}, "unknown kind"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    for options, message in REFUSED[name]:
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            getattr(af.methods, name)(**options)
