"""The mixin trains in the Trainer's loop: the weight meets its target, and a resumed run goes on as if never stopped."""

import warnings

import pytest
import torch
from accelerate.state import AcceleratorState

from cheaplip import (
    ConstantWeight,
    DiscrepancyPrinciple,
    LipschitzRegularizer,
    PenaltyTerm,
    difference_quotient,
    embedding_pairs,
)
from cheaplip.transformers import LipschitzTrainerMixin  # without transformers, too
from support.networks import same_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of transformers' own dependencies
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("default:::transformers", "default:::torch", "default:::accelerate")
WORDS = 30


def texts(n=96, length=6):
    """Whether the first word is one of the first half of the vocabulary."""
    ids = torch.randint(WORDS, (n, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0] < WORDS // 2)} for row in ids]


def classifier():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=8, num_labels=2, **sizes)
    return transformers.BertForSequenceClassification(config)


def trainer(folder, scheduler, kind=LipschitzTrainerMixin, **arguments):
    class Trainer(kind, transformers.Trainer):
        pass

    model = classifier()
    held_out = torch.stack([text["input_ids"] for text in texts(40)])
    pairs = embedding_pairs(model.get_input_embeddings(), held_out)
    penalty = LipschitzRegularizer(lambda embedded: model(inputs_embeds=embedded).logits, pairs, active=8, interval=2)
    usual = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 3e-3, "report_to": [], "use_cpu": True}
    usual |= {"save_strategy": "no", "disable_tqdm": True, "logging_steps": 12, "seed": 0}
    chosen = transformers.TrainingArguments(str(folder), **(usual | arguments))
    return Trainer(model, chosen, train_dataset=texts(), lipschitz_term=PenaltyTerm(penalty, scheduler))


def test_every_step_of_the_optimizer_is_one_of_the_penalty(tmp_path):
    run = trainer(tmp_path, ConstantWeight(0.01))
    run.train()
    assert run.lipschitz_term.penalty.calls == run.state.global_step == 24
    assert run.lipschitz_term.penalty.skipped == 0
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 2
    assert all(entry["lipschitz_weight"] == 0.01 and entry["lipschitz_lower_bound"] > 0 for entry in logged)


@pytest.fixture
def forgotten():
    """Mixed precision is of the process: later tests have their own."""
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("forgotten")
def test_mixed_precision_is_for_the_loss_alone(tmp_path):
    run, seen = trainer(tmp_path, ConstantWeight(0.01), bf16=True, max_steps=2), set()
    run.model.classifier.register_forward_hook(lambda layer, given, output: seen.add((layer.training, output.dtype)))
    run.train()
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}  # the penalty is of the network in evaluation mode


def test_accumulated_batches_are_one_step(tmp_path):
    """And their gradient is that of one batch of all their samples."""
    few = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1}
    halves = trainer(tmp_path, ConstantWeight(0.3), gradient_accumulation_steps=2, per_device_train_batch_size=4, **few)
    whole = trainer(tmp_path, ConstantWeight(0.3), **few)
    for run in (halves, whole):
        run.model_accepts_loss_kwargs = False  # this model takes the number of items, and does not divide by it
        run.train()
    assert halves.lipschitz_term.penalty.calls == whole.lipschitz_term.penalty.calls == 3
    for one, other in zip(halves.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_slopes_are_lower(tmp_path):
    slopes = []
    for weight in (0.0, 0.01):
        run = trainer(tmp_path, ConstantWeight(weight), num_train_epochs=10, learning_rate=1e-2)
        run.train()
        held_out = torch.stack([text["input_ids"] for text in texts(100)])
        fresh = embedding_pairs(run.model.get_input_embeddings(), held_out, seed=1)
        slopes.append(difference_quotient(run.lipschitz_term.penalty.model, fresh.u, fresh.v).mean().item())
    assert slopes[1] < slopes[0] / 2


def test_the_weight_is_moved_some_thirty_times(tmp_path, monkeypatch):
    monkeypatch.setattr("cheaplip.transformers.SHORTEST", 3)
    run = trainer(tmp_path, DiscrepancyPrinciple(0.6, warmup=1), num_train_epochs=8, learning_rate=1e-2)
    run.train()
    assert run.lipschitz_term.scheduler.calls == 96 // 3
    assert run.lipschitz_term.scheduler.weight > 0


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole = trainer(tmp_path / "whole", DiscrepancyPrinciple(0.8, warmup=1))
    whole.train()
    trainer(tmp_path / "first", DiscrepancyPrinciple(0.8, warmup=1), save_strategy="steps", save_steps=10).train()
    resumed = trainer(tmp_path / "second", DiscrepancyPrinciple(0.8, warmup=1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-10"))
    assert same_weights(resumed.model, whole.model)
    assert resumed.lipschitz_term.scheduler.state_dict() == whole.lipschitz_term.scheduler.state_dict()


def test_evaluation_is_the_trainers_own(tmp_path):
    run = trainer(tmp_path, ConstantWeight(1.0))
    loss = run.evaluate(texts(32))["eval_loss"]
    batch = {"input_ids": torch.stack([text["input_ids"] for text in texts(32)])}
    with torch.no_grad():
        expected = run.model.eval()(**batch, labels=torch.tensor([text["labels"] for text in texts(32)])).loss
    assert loss == pytest.approx(float(expected), rel=1e-5)
