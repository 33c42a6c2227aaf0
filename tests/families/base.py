"""What holds for every model family: one test class, run over tiny random models on the CPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import nn

from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.uniform import export_uniform
from nirvana.compensation import METHODS, Compensation
from nirvana.compensation.statistics import collect_statistics
from nirvana.costs import PHASES
from nirvana.errors import CheckpointError
from nirvana.evaluation import speed
from nirvana.evaluation.costs import measure_costs
from nirvana.layout import CROSS_ATTENTION, KV_GROUP, Site
from nirvana.models.families.registry import family_of
from nirvana.models.inspection import inspect_model
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.models.weights import layer_places, linear_layer, output_part, unit_rows
from nirvana.plan import PruningPlan
from nirvana.saliency.criteria import CRITERIA, available
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.conftest import byte_tokenizer
from tests.oracle import all_logits, loss_scores, mask_units_, nirvana_scores, unmasked_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Read = Callable[..., dict[str, np.ndarray]]
Settings = dict[str, Any]
Strategy = Literal["micro-batches", "recompute"]


class FamilyTests:
    """Subclasses name the library's classes and what their tiny config sets; tests are inherited."""

    library: ClassVar[str]  # "Llama" for LlamaConfig and LlamaForCausalLM
    purpose: ClassVar[str] = "ForCausalLM"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    settings: ClassVar[Settings] = {}
    plain_output_biases: ClassVar[bool] = False  # whether the library's config can ask for them in attention and MLP
    common: ClassVar[Settings] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,  # wide enough that no score is lost in rounding
        "tie_word_embeddings": False,
    }

    @classmethod
    def write(cls, folder: Path) -> None:
        """A random model as its makers would publish it: saved by the library."""
        import transformers

        tokenizer = cls.tokenizer()
        config = getattr(transformers, f"{cls.library}Config")(
            bos_token_id=0, eos_token_id=1, **{"vocab_size": len(tokenizer), **cls.common, **cls.settings}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = getattr(transformers, f"{cls.library}{cls.purpose}")(config)
            cls.shape(model)
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name:  # which start as zeros and ones
                    torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    @classmethod
    def tokenizer(cls) -> PreTrainedTokenizerBase:
        return byte_tokenizer()

    @classmethod
    def shape(cls, model: PreTrainedModel) -> None:
        """Make of a model that the library built what its makers published, where that differs."""

    @classmethod
    def sample(cls, lm: LM) -> CalibrationSet:
        """Five samples of 17 tokens, one of them padded."""
        draw = np.random.default_rng(3)
        mask = np.ones((5, 17), np.int64)
        mask[2, 11:] = 0
        return CalibrationSet(draw.integers(2, lm.family.geometry(lm.settings)["vocabulary"], mask.shape), mask)

    def test_counts_are_those_of_the_module(self, folder: Path, lm: LM, pruned: LM) -> None:
        without_middle = prune(lm, some_plan(lm, seed=2, removed_layers=((lm.layout.stacks[-1], 1),)))
        for model in (lm, pruned, without_middle):
            assert model.layout.parameters == sum(p.numel() for p in model.weights().parameters())
        published = json.loads((folder / "config.json").read_text())
        assert family_of(published).layout(published) == lm.layout  # what a preview says before loading
        assert lm.layout.architecture == type(lm.weights()).__name__

    def test_costs_are_what_a_unit_takes_with_it(self, lm: LM) -> None:
        for site, place in lm.layout.items():
            if place.units == 1:
                continue
            kept = {other: np.arange(there.units) for other, there in lm.layout.items()}
            kept[site] = kept[site][1:]
            smaller = prune(lm, PruningPlan(kept, lm.layout, requested=0.0, gamma=1.0))
            gone = _weights(lm) - _weights(smaller)
            assert gone == place.cost + place.biases, site.key

    def test_measured_costs_are_those_of_the_linear_layers(self, lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a clock on which a linear layer takes as many seconds as it has weights, and all else takes none."""
        seconds = 0.0

        def work(module: nn.Module, *_: object) -> None:
            nonlocal seconds
            seconds += module.weight.numel() if isinstance(module, nn.Linear) else 0

        monkeypatch.setattr(speed, "clock", lambda: seconds)
        handle = torch.nn.modules.module.register_module_forward_hook(work)
        try:
            found = {phase: measure_costs(lm, length=4, phase=phase, repeats=1) for phase in PHASES}
        finally:
            handle.remove()
        head, known = lm.family.head(lm.weights()).weight.numel(), set()
        for phase, table in found.items():
            for site, place in lm.layout.items():
                if phase == "decode" and site.stack == "encoder":
                    assert (site.stack, site.module) not in table.modules
                    continue
                cached = phase == "decode" and site.module == CROSS_ATTENTION  # keys and values of the encoder
                kind = table.modules[site.stack, site.module]
                assert kind.sizes[-1] == place.units and kind.weights == place.cost
                assert kind.costs == tuple(size * place.cost / (2 if cached else 1) for size in kind.sizes)
                known.add(kind.sizes)
            assert table.fixed == head and set(table.blocks.values()) == {0.0}
            everything = {site: place.units for site, place in lm.layout.items()}
            assert table.total(everything) == table.prunable(everything) + head
        assert max(map(len, known)) == 6  # MLP widths in steps of 8

    @pytest.mark.parametrize("strategy", ["micro-batches", "recompute"])
    def test_saliency_is_the_oracles(self, lm: LM, calibration: CalibrationSet, strategy: Strategy) -> None:
        _scores_agree(lm, calibration, strategy)

    def test_loss_taylor_is_the_librarys_loss(self, lm: LM, calibration: CalibrationSet) -> None:
        found, expected = score(lm, calibration, criterion="taylor"), loss_scores(lm, calibration)
        for site, values in expected.items():
            np.testing.assert_allclose(found[site], values, rtol=1e-4, err_msg=site.key)

    def test_every_criterion_tells_sites_apart(self, pruned: LM, calibration: CalibrationSet) -> None:
        for criterion in available():
            found = score(pruned, calibration, criterion=criterion)
            assert len({float(values[0]) for values in found.values()}) > 2, criterion
            if CRITERIA[criterion].published != "layers":  # where a layer's units share one score
                assert all(len(set(values.tolist())) == len(values) for values in found.values()), criterion

    def test_saliency_of_a_pruned_model_is_the_oracles(self, pruned: LM, calibration: CalibrationSet) -> None:
        _scores_agree(pruned, calibration, "micro-batches")

    @pytest.mark.parametrize("twice", [False, True], ids=["dense", "already pruned"])
    def test_compensation_reproduces_what_projections_gave(
        self, lm: LM, pruned: LM, calibration: CalibrationSet, twice: bool
    ) -> None:
        model = pruned if twice else lm
        read, statistics = projection_inputs(model, calibration), collect_statistics(model, calibration)
        for site, inputs in read.items():
            np.testing.assert_allclose(statistics[site].mean, inputs.mean(axis=0), atol=1e-5, err_msg=site.key)
            second = statistics[site].second
            assert second is not None
            np.testing.assert_allclose(second, inputs.T @ inputs / len(inputs), rtol=1e-3, atol=1e-4)
        plan, errors = some_plan(model, seed=1), dict[str, dict[Site, float]]()
        for method in METHODS:
            small = prune(model, plan, compensation=method, statistics=statistics)
            assert small.layout.parameters == _weights(small)
            before, after = projections(model), projections(small)
            errors[method] = {}
            for site, inputs in read.items():
                columns = unit_rows(torch.from_numpy(plan[site]), output_part(model, site).size)
                difference = _output(before[site], inputs) - _output(after[site], inputs[:, columns])
                errors[method][site] = float((difference**2).mean())
        cut = [site for site in model.layout if len(plan[site]) < model.layout[site].units]
        for site in cut:
            none, bias, best = (errors[method][site] for method in METHODS)
            assert best <= none * (1 + 1e-5) and bias <= none * (1 + 1e-5), site.key
        # A bias alone does better where inputs hardly vary, as in a random T5's cross-attention; not over all sites.
        means = [np.mean([errors[method][site] for site in cut]) for method in METHODS]
        assert means[2] < means[1] < means[0]

    @pytest.mark.parametrize("method", METHODS)
    def test_compensating_for_nothing_changes_nothing(
        self, lm: LM, calibration: CalibrationSet, method: Compensation
    ) -> None:
        statistics = collect_statistics(lm, calibration)
        same = prune(lm, some_plan(lm, share=1.0), compensation=method, statistics=statistics)
        expected, found = lm.weights().state_dict(), same.weights().state_dict()
        assert expected.keys() == found.keys() and same.layout == lm.layout
        assert all(torch.equal(expected[name], found[name]) for name in expected)

    def test_pruned_computes_what_masked_computes(self, lm: LM, pruned: LM, calibration: CalibrationSet) -> None:
        masked = prune(lm, some_plan(lm, share=1.0))  # a copy
        mask_units_(masked, some_plan(lm, seed=1))
        with torch.inference_mode():
            expected, found = all_logits(masked, calibration), all_logits(pruned, calibration)
            dense = all_logits(lm, calibration)
        seen = expected.isfinite()
        assert (found - expected)[seen].abs().max() < 1e-5
        assert (found - dense)[seen].abs().max() > 1e-2  # it did remove something

    def test_pruning_twice_is_pruning_once(self, lm: LM, pruned: LM) -> None:
        twice = prune(pruned, some_plan(pruned, seed=4))
        once = prune(lm, PruningPlan(twice.kept, lm.layout, requested=0.0, gamma=1.0))
        assert twice.layout == once.layout
        expected, found = once.weights().state_dict(), twice.weights().state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)

    def test_a_checkpoint_read_in_another_process_is_bit_equal(
        self, pruned: LM, calibration: CalibrationSet, tmp_path: Path, read_elsewhere: Read
    ) -> None:
        folder = save(pruned, tmp_path / "pruned")
        assert np.array_equal(read_elsewhere(folder, calibration)["logits"], library_logits(pruned, calibration))
        assert inspect_model(str(folder)).layout == pruned.layout

    def test_transformers_alone_reads_a_checkpoint(
        self, pruned: LM, calibration: CalibrationSet, tmp_path: Path, read_without_us: Read
    ) -> None:
        found = read_without_us(save(pruned, tmp_path / "pruned"), calibration, self.auto_class)
        assert np.array_equal(found["logits"], library_logits(pruned, calibration))
        assert found["reached"], "a backward pass reaches every weight"
        assert found["agree"], "generation is the same with and without a cache"

    def test_a_reloaded_model_is_pruned_further_like_the_original(
        self, pruned: LM, calibration: CalibrationSet, tmp_path: Path
    ) -> None:
        reloaded = load_model(save(pruned, tmp_path / "pruned"), device="cpu")
        assert all(np.array_equal(reloaded.kept[site], kept) for site, kept in pruned.kept.items())
        plan = some_plan(pruned, seed=6)
        with torch.inference_mode():
            expected = all_logits(prune(pruned, plan), calibration)
            assert torch.equal(all_logits(prune(reloaded, plan), calibration), expected)

    def test_generation_is_the_same_with_and_without_a_cache(self, pruned: LM) -> None:
        prompt = torch.tensor([[5, 9, 40, 7, 61], [8, 8, 90, 33, 12]])
        generate: Any = pruned.weights().generate
        cached, uncached = (
            generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                use_cache=use_cache,
                do_sample=False,
                min_new_tokens=16,
                max_new_tokens=16,
                output_logits=True,
                return_dict_in_generate=True,
            )
            for use_cache in (True, False)
        )
        assert torch.equal(cached.sequences, uncached.sequences)
        assert (torch.stack(cached.logits) - torch.stack(uncached.logits)).abs().max() < 1e-4

    def test_removed_layers_leave_a_model_that_reloads(
        self, lm: LM, calibration: CalibrationSet, tmp_path: Path
    ) -> None:
        shorter = prune(lm, some_plan(lm, seed=7, removed_layers=((lm.layout.stacks[-1], 1),)))
        reloaded = load_model(save(shorter, tmp_path / "shorter"), device="cpu")
        assert reloaded.layout == shorter.layout
        with torch.inference_mode():
            assert torch.equal(all_logits(reloaded, calibration), all_logits(shorter, calibration))

    def test_output_biases_are_saved_and_read_bit_for_bit(
        self, biased: LM, calibration: CalibrationSet, tmp_path: Path, read_elsewhere: Read, read_without_us: Read
    ) -> None:
        folder, expected = save(biased, tmp_path / "biased"), library_logits(biased, calibration)
        assert inspect_model(str(folder)).layout == biased.layout
        assert np.array_equal(read_elsewhere(folder, calibration)["logits"], expected)
        found = read_without_us(folder, calibration, self.auto_class)
        assert np.array_equal(found["logits"], expected)
        assert found["reached"] and found["agree"]

    def test_pruning_keeps_output_biases(self, biased: LM, calibration: CalibrationSet) -> None:
        plan = some_plan(biased, seed=4)
        twice, masked = prune(biased, plan), prune(biased, some_plan(biased, share=1.0))
        mask_units_(masked, plan)
        with torch.inference_mode():
            expected, found = all_logits(masked, calibration), all_logits(twice, calibration)
        seen = expected.isfinite()
        assert (found - expected)[seen].abs().max() < 1e-5 * expected[seen].abs().max()
        shorter = prune(biased, some_plan(biased, seed=7, removed_layers=((biased.layout.stacks[-1], 1),)))
        for small in (twice, shorter):
            assert small.layout.parameters == _weights(small)
            for site, linear in projections(small).items():
                before = projections(biased)[site].bias
                assert torch.equal(before, linear.bias) if before is not None else linear.bias is None

    def test_a_uniform_checkpoint_needs_no_code_and_computes_the_same(
        self, pruned: LM, calibration: CalibrationSet, tmp_path: Path, read_without_us: Read
    ) -> None:
        folder, expected = export_uniform(pruned, tmp_path / "uniform"), library_logits(pruned, calibration)
        assert not list(folder.glob("*.py")) and not (folder / "pruning.json").exists()
        found = read_without_us(folder, calibration, self.auto_class)
        assert np.abs(found["logits"] - expected).max() < 1e-5 * np.abs(expected).max()
        assert found["agree"], "generation is the same with and without a cache"
        again = load_model(folder, device="cpu")
        assert again.layout.parameters == _weights(again)
        assert again.layout.parameters <= pruned.dense.parameters
        with torch.inference_mode():
            difference = all_logits(again, calibration) - all_logits(pruned, calibration)
        assert difference[difference.isfinite()].abs().max() < 1e-5 * np.abs(expected).max()

    def test_a_uniform_checkpoint_has_output_biases_where_its_architecture_has(
        self, biased: LM, calibration: CalibrationSet, tmp_path: Path
    ) -> None:
        if not self.plain_output_biases:
            with pytest.raises(CheckpointError, match=f"A plain {biased.layout.architecture} has no biases"):
                export_uniform(biased, tmp_path / "uniform")
            assert list(tmp_path.glob("*uniform*")) == []
            return
        again, expected = (
            load_model(export_uniform(biased, tmp_path / "uniform"), device="cpu"),
            library_logits(biased, calibration),
        )
        assert all(place.output_bias for place in again.layout.values())
        assert again.layout.parameters == _weights(again)
        assert np.abs(library_logits(again, calibration) - expected).max() < 1e-5 * np.abs(expected).max()

    def test_scoring_leaves_the_model_as_it_was(self, lm: LM, calibration: CalibrationSet) -> None:
        before = copy.deepcopy(lm.weights().state_dict())
        score(lm, calibration)
        after = lm.weights().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.grad is None and not p.requires_grad for p in lm.weights().parameters())


def some_plan(
    lm: LM, *, seed: int = 0, share: float = 0.6, removed_layers: tuple[tuple[str, int], ...] = ()
) -> PruningPlan:
    """Other units in every site: about `share` of them stay, at least one."""
    draw = np.random.default_rng(seed)
    kept: dict[Site, np.ndarray] = {}
    for site, place in lm.layout.items():
        if (site.stack, site.layer) not in removed_layers:
            fewest = max(1, int(share * place.units))
            count = fewest if place.kind == KV_GROUP or share == 1 else fewest + int(draw.integers(0, 5))
            kept[site] = np.sort(draw.choice(place.units, min(count, place.units), replace=False))
    return PruningPlan(kept, lm.layout, requested=1 - share, gamma=1.0, removed_layers=removed_layers)


def projections(lm: LM) -> dict[Site, nn.Linear]:
    """Site -> its output projection."""
    places, blocks = layer_places(lm.layout), lm.family.blocks(lm.weights())
    return {
        site: linear_layer(blocks[site.stack][places[site.stack, site.layer]], output_part(lm, site))
        for site in lm.layout
    }


def projection_inputs(lm: LM, calibration: CalibrationSet) -> dict[Site, np.ndarray]:
    """Site -> float64 (tokens, d): what its output projection reads where tokens count."""
    seen: dict[Site, torch.Tensor] = {}
    handles = [
        linear.register_forward_pre_hook(lambda _, inputs, site=site: seen.__setitem__(site, inputs[0]))
        for site, linear in projections(lm).items()
    ]
    with torch.inference_mode():
        unmasked_logits(lm, calibration)
    for handle in handles:
        handle.remove()
    mask, targets = calibration.mask, calibration.targets
    counted = dict.fromkeys(lm.layout.stacks, mask) | ({} if targets is None else {"decoder": targets != -100})
    return {
        site: states[torch.from_numpy(counted[site.stack]).bool()].double().numpy() for site, states in seen.items()
    }


def _output(linear: nn.Linear, inputs: np.ndarray) -> np.ndarray:
    outputs: np.ndarray = inputs @ linear.weight.double().numpy().T
    if linear.bias is not None:
        outputs += linear.bias.double().numpy()
    return outputs


def library_logits(lm: LM, calibration: CalibrationSet) -> np.ndarray:
    """(B, T, V), padding included."""
    with torch.inference_mode():
        output: np.ndarray = unmasked_logits(lm, calibration).numpy()
    return output


def _weights(lm: LM) -> int:
    return sum(p.numel() for p in lm.weights().parameters())


def _scores_agree(lm: LM, calibration: CalibrationSet, strategy: Strategy) -> None:
    found, expected = score(lm, calibration, strategy=strategy), nirvana_scores(lm, calibration)
    assert list(found) == list(expected)
    for site, values in expected.items():
        np.testing.assert_allclose(found[site], values, rtol=1e-4, err_msg=site.key)
