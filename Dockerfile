# Build: dependencies and the native kernels into /venv. A change of the code does not install dependencies anew.
FROM python:3.11-slim AS build

RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends g++

# PyTorch's index of CPU builds; empty for the GPU build (several GB).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /venv
RUN --mount=type=cache,target=/root/.cache/pip \
    /venv/bin/pip install ${TORCH_INDEX:+--no-deps --retries 1 --extra-index-url "$TORCH_INDEX"} "torch==$TORCH_VERSION"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip <<INSTALL
set -e
/venv/bin/python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > requirements.txt
/venv/bin/pip install -r requirements.txt
INSTALL
COPY app app
COPY models models
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip install --no-deps . \
    && cd / && /venv/bin/python -c "import models.backends.native as native; assert native.available()"

# Serve: no compiler, no pip cache, no root.
FROM python:3.11-slim

RUN useradd --system --uid 10001 --home-dir /carousel --shell /usr/sbin/nologin carousel
COPY --from=build /venv /venv
WORKDIR /carousel
COPY checkpoints checkpoints

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CAROUSEL_HOST=0.0.0.0 \
    CAROUSEL_PORT=8000 \
    CAROUSEL_CHECKPOINTS=/carousel/checkpoints
USER carousel
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['CAROUSEL_PORT'] + '/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
