"""Options of the back ends, and the factory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.models.backends.open import describe_generator, open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling


@dataclass(kw_only=True)
class Both(ModelOptions, BackendOptions):
    pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "endpoint"}, "needs the server's address"),
        ({"endpoint_model": "m"}, "endpoint_model has no effect with backend: transformers"),
        ({"backend": "vllm", "endpoint": "http://x/v1"}, "endpoint has no effect with backend: vllm"),
        ({"backend": "magic"}, "one of: auto, transformers"),
        ({"endpoint": "http://x/v1", "tuning": "full", "adapter_rank": 4}, "adapter_rank"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Both, values)


def test_auto_is_the_endpoint_where_one_is_named():
    assert BackendOptions().chosen_backend == "transformers"
    assert BackendOptions(endpoint="http://x/v1").chosen_backend == "endpoint"
    assert BackendOptions(backend="vllm").chosen_backend == "vllm"


def test_the_factory_opens_a_local_model(tiny_model):
    generator = open_generator(ModelOptions(model=tiny_model, dtype="float32"), batch_size=3)
    assert isinstance(generator, TransformersGenerator)
    assert describe_generator(generator, "m").startswith("m on ")
    both = open_generator(Both(model=tiny_model, dtype="float32"))
    greedy = Sampling(4, temperature=0.0)
    assert both.generate(["a"], greedy) == generator.generate(["a"], greedy)
