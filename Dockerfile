# What the image begins with, in both places. A digest fixes it; `make base` writes the digest of today here, and is to be
# repeated now and then, as the system gets its mended parts this way alone.
ARG BASE=python:3.11-slim

# Build: the locked dependencies and the native kernels into /venv. A change of the code does not install dependencies anew.
FROM $BASE AS build

RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends g++

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /venv
COPY requirements/serve.txt /src/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --require-hashes -r /src/requirements/serve.txt

# Serving on a processor does without PyTorch. TORCH=cpu adds its CPU build, TORCH=cuda its GPU build (several GB).
ARG TORCH=none
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip <<INSTALL
case $TORCH in
  none) ;;
  cpu) pip --python /venv/bin/python install --retries 1 --extra-index-url "$TORCH_INDEX" "torch==$TORCH_VERSION" ;;
  cuda) pip --python /venv/bin/python install "torch==$TORCH_VERSION" ;;
  *) echo "TORCH=$TORCH: none, cpu or cuda" >&2; exit 1 ;;
esac
INSTALL

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY app app
COPY carousel carousel
COPY models models
COPY training training
# The included models lie beside the package, where a volume can take their place, and not within it.
RUN mkdir checkpoints
RUN --mount=type=cache,target=/root/.cache/pip pip --python /venv/bin/python install --no-deps . \
    && cd / && /venv/bin/python -c "from models.backends import native; assert native.available()"

# What runs: the system of the base image without what a server never uses (pip, documentation, translations, package
# management, whatever lies in /opt).
FROM $BASE AS system
RUN useradd --system --uid 10001 --home-dir /carousel --shell /usr/sbin/nologin carousel \
    && rm -rf /usr/local/lib/python3.11/site-packages/* /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* /opt/* \
       /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /usr/share/perl* /usr/bin/*perl* \
       /usr/lib/x86_64-linux-gnu/perl* /usr/lib/*-linux-gnu/gconv /usr/lib/apt /usr/bin/apt* /usr/bin/dpkg* \
       /var/lib/apt /var/lib/dpkg /var/cache/* /root/.cache

# Serve: no compiler, no pip, no root. A copy into an empty image: what a layer deletes still counts in those below it.
FROM scratch
COPY --from=system / /
COPY --from=build /venv /venv
WORKDIR /carousel
COPY checkpoints checkpoints

ENV PATH=/venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
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
