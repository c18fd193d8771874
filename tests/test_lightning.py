"""The mixin trains in Lightning's loop: the weight finds its target, and what cannot work is refused."""

import textwrap

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

import cheaplip.lightning  # without lightning, too
from cheaplip import DiscrepancyPrinciple, LocalRegularizer, perturbed_pairs
from cheaplip.errors import InputError
from cheaplip.lightning import LipschitzMixin
from cheaplip.regularization.scheduler import ConstantWeight
from support.lightning_modules import Classifier, lightning, loader, quietly, samples, scheduler, train
from support.networks import curve, dense, digits, same_weights

pytestmark = quietly


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
