"""The mixin trains in Lightning's loop: the weight finds its target, and a resumed run goes on as if never stopped."""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import cheaplip.lightning  # without lightning, too
from cheaplip import DiscrepancyPrinciple, LocalRegularizer, perturbed_pairs
from cheaplip.errors import InputError
from cheaplip.lightning import LipschitzMixin
from cheaplip.regularization.scheduler import ConstantWeight
from support.networks import curve, dense, digits, same_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lightning's own dependencies
    lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")  # its deprecated calls, its hints at faster settings


class Classifier(LipschitzMixin, lightning.LightningModule):
    """What a user writes."""

    def __init__(self, scheduler, **options):
        super().__init__()
        self.network = dense()
        self.configure_lipschitz(
            self.network, perturbed_pairs(digits(60)[0]), scheduler, **{"active": 8, "interval": 2, **options}
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.network(x)
        return cross_entropy(logits, y) + self.lipschitz_penalty(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("validation_loss", cross_entropy(self.network(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def scheduler(**settings):
    return DiscrepancyPrinciple(0.7, **{"warmup": 1, "initial": 0.1, **settings})


def loader(x, y):
    return DataLoader(TensorDataset(x, y), batch_size=32)


def samples():
    return loader(*(part[60:] for part in digits()))


def train(module, epochs, *, data=None, validation=None, ckpt_path=None, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(**{**quiet, "max_epochs": epochs, "num_sanity_val_steps": 0, **settings})
    trainer.fit(module, samples() if data is None else data, validation, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_a_penalty_in_place_of_the_pairs():
    module = Classifier(ConstantWeight(1.0))
    penalty = LocalRegularizer(module.network, digits(), radius=0.5, attack_interval=2)
    module.configure_lipschitz(module.network, penalty, ConstantWeight(1.0))
    logged = train(module, 2).logged_metrics
    assert penalty.calls == 2 * len(samples())
    assert penalty.latest > 0
    assert "lipschitz_weight" in logged
    assert "lipschitz_lower_bound" not in logged
    with pytest.raises(InputError, match="pairs for these options"):
        module.configure_lipschitz(module.network, penalty, ConstantWeight(1.0), active=8)


def test_a_constant_is_kept():
    module = Classifier(DiscrepancyPrinciple(1.0, quantity="lipschitz"), interval=1)
    options = module.lipschitz_term.penalty.options
    assert (options.allowed, options.power) == (1.0, 1)
    train(module, 60)
    assert 0.7 < module.lipschitz_term.scheduler.value < 1.3  # at a constant learning rate it swings; plainly it is 28


def test_the_accuracy_steers_the_weight():
    module = Classifier(scheduler())
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.03, momentum=0.9)
    trainer = train(module, 30)
    assert module.lipschitz_term.scheduler.calls == 30
    assert module.lipschitz_term.scheduler.weight > 0
    assert abs(module.lipschitz_term.scheduler.excess) < 0.15
    assert trainer.callback_metrics["lipschitz_weight"] > 0
    plain = Classifier(ConstantWeight(0.0))
    without = train(plain, 30)
    assert trainer.callback_metrics["lipschitz_lower_bound"] < without.callback_metrics["lipschitz_lower_bound"] / 2


def test_the_principle_sees_the_accuracy_of_the_epoch():
    module = Classifier(scheduler())
    x, y = (part[60:] for part in digits())
    expected = float((module.network(x).argmax(1) == y).float().mean())
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    train(module, 1)
    assert module.lipschitz_term.scheduler.excess == pytest.approx(expected - 0.7)


def test_it_is_the_loop_of_the_readme():
    module, model = Classifier(ConstantWeight(0.3)), dense()
    train(module, 2)
    regularizer = cheaplip.LipschitzRegularizer(model, perturbed_pairs(digits(60)[0]), active=8, interval=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in samples():
            regularizer.batch_size = len(x)
            loss = cross_entropy(model(x), y) + 0.3 * regularizer()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            regularizer.step()
    assert same_weights(module.network, model)
    assert torch.equal(module.lipschitz_term.penalty.state.points, regularizer.state.points)


@pytest.mark.parametrize("validates", [False, True])
def test_a_resumed_run_is_the_same_run(tmp_path, validates):
    validation = samples() if validates else None
    whole = Classifier(scheduler(warmup=0))
    train(whole, 4, validation=validation)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    train(Classifier(scheduler(warmup=0)), 2, validation=validation, enable_checkpointing=True, callbacks=[saver])
    resumed = Classifier(scheduler(warmup=0))
    train(resumed, 4, validation=validation, ckpt_path=saver.last_model_path)
    assert same_weights(resumed.network, whole.network)
    assert resumed.lipschitz_term.scheduler.state_dict() == whole.lipschitz_term.scheduler.state_dict()
    assert torch.equal(resumed.lipschitz_term.penalty.state.points, whole.lipschitz_term.penalty.state.points)


@pytest.mark.parametrize("step", [3, 8, 9, 12])
def test_a_checkpoint_of_a_step_has_the_state_after_it(tmp_path, step):
    """The batches are all alike, so that it does not matter where in an epoch Lightning goes on."""
    x, y = (part[60:92] for part in digits())
    alike = loader(x.repeat(8, 1, 1, 1), y.repeat(8))  # 8 steps in an epoch
    whole = Classifier(scheduler(warmup=0))
    train(whole, 2, data=alike)
    every = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    train(Classifier(scheduler(warmup=0)), 2, data=alike, enable_checkpointing=True, callbacks=[every])
    resumed = Classifier(scheduler(warmup=0))
    train(resumed, 2, data=alike, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert same_weights(resumed.network, whole.network)
    assert resumed.lipschitz_term.scheduler.state_dict() == whole.lipschitz_term.scheduler.state_dict()
    assert torch.equal(resumed.lipschitz_term.penalty.state.points, whole.lipschitz_term.penalty.state.points)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_other_precisions(precision):
    module = Classifier(ConstantWeight(0.3))
    train(module, 2, precision=precision, gradient_clip_val=1.0)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert 0 < module.lipschitz_term.penalty.lower_bound() < 10
    assert module.lipschitz_term.penalty.skipped == 0


def test_accumulated_batches_are_one_step():
    module = Classifier(ConstantWeight(0.3))
    train(module, 2, accumulate_grad_batches=2)
    assert module.lipschitz_term.penalty.calls == 2 * -(-len(samples()) // 2)


def test_manual_optimization_steps_at_the_end_of_a_batch():
    class Manual(Classifier):
        def __init__(self, *given):
            super().__init__(*given)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    manual, automatic = Manual(scheduler(warmup=0)), Classifier(scheduler(warmup=0))
    train(manual, 2)
    train(automatic, 2)
    assert same_weights(manual.network, automatic.network)
    assert manual.lipschitz_term.weight == automatic.lipschitz_term.weight > 0


def test_the_module_of_the_docstring_runs_as_printed():
    code = textwrap.dedent(LipschitzMixin.__doc__.split("A complete module::")[1])
    names = {"__name__": "example"}
    exec(compile(code, "docstring", "exec"), names)
    module = names["Classifier"](digits(60)[0])
    train(module, 2)
    assert module.lipschitz_term.scheduler.calls == 2


def test_a_checkpoint_from_without_the_mixin_starts_the_penalty():
    module = Classifier(scheduler())
    module.on_load_checkpoint({})
    assert module.lipschitz_term.scheduler.calls == 0


def test_real_values_and_a_target_loss():
    class Regressor(Classifier):
        def __init__(self):
            lightning.LightningModule.__init__(self)
            self.network = dense(inputs=1, outputs=1)
            steered = DiscrepancyPrinciple(0.2, quantity="loss", warmup=1)
            self.configure_lipschitz(self.network, perturbed_pairs(curve()[0][::3]), steered)

        def training_step(self, batch, batch_idx):
            x, y = batch
            values = self.network(x)
            return mse_loss(values, y) + self.lipschitz_penalty(values, y)

    module = Regressor()
    x, y = curve()
    expected = mse_loss(module.network(x), y).item()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    train(module, 1, data=loader(x, y))
    assert module.lipschitz_term.scheduler.excess == pytest.approx((0.2 - expected) / 0.2, rel=1e-5)


def test_a_quantity_that_does_not_fit_the_labels_is_refused():
    with pytest.raises(InputError, match="a target loss"):
        train(Classifier(DiscrepancyPrinciple(0.2, quantity="loss")), 1)


def test_a_module_that_is_not_configured_says_so():
    class Forgetful(Classifier):
        def __init__(self):
            lightning.LightningModule.__init__(self)
            self.network = dense()

    with pytest.raises(InputError, match="Call it in __init__"):
        train(Forgetful(), 1)


def test_a_hook_that_does_not_run_is_noticed():
    class Overriding(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            """Without super()."""

    with pytest.raises(InputError, match=r"super\(\).on_train_batch_end"):
        train(Overriding(scheduler()), 1)


def test_bases_in_the_wrong_order_are_noticed():
    class Swapped(lightning.LightningModule, LipschitzMixin):
        def __init__(self):
            super().__init__()
            self.network = dense()
            self.configure_lipschitz(self.network, perturbed_pairs(digits(60)[0]), scheduler())

        training_step = Classifier.training_step
        configure_optimizers = Classifier.configure_optimizers

    with pytest.raises(InputError, match="before LightningModule"):
        train(Swapped(), 1)


def test_an_optimizer_with_a_closure_may_ask_twice_in_one_batch():
    module = Classifier(ConstantWeight(0.1))
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=2)
    train(module, 1)
    assert module.lipschitz_term.penalty.calls == len(samples())


WORKER = """
import os, sys
import torch
from test_lightning import Classifier, scheduler, train

torch.set_num_threads(1)
module = Classifier(scheduler(warmup=0))
train(module, 3, devices=2, strategy="ddp")
assert module.trainer.world_size == 2
state = {"network": module.network.state_dict(), "scheduler": module.lipschitz_term.scheduler.state_dict()}
torch.save(state, f"{sys.argv[1]}/{module.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_stay_together(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first["network"][name], second["network"][name]) for name in first["network"])
    assert first["scheduler"] == second["scheduler"]
    assert first["scheduler"]["calls"] == 3
