# detkit on the CPU.
#
#   docker build -t detkit .                                the light core: check, convert, eval
#   docker build -t detkit --build-arg EXTRAS=train,onnx .  all of it
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" detkit check photos
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG EXTRAS=""
# The CPU builds of torch are a tenth of the size of those that bring CUDA.
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
# hadolint ignore=DL3013  # the wheel states what it needs
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    wheel="$(echo /wheels/detkit-*.whl)" \
    && python -m pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
        "${wheel}${EXTRAS:+[$EXTRAS]}" \
    && useradd --create-home --uid 1000 detkit \
    && mkdir -m 1777 /data /cache
# Whoever runs it (--user) can write the caches of proposals, weights, compiled code and fonts.
ENV DETKIT_CACHE=/cache/detkit \
    TORCH_HOME=/cache/torch \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /data
ENTRYPOINT ["detkit"]
CMD ["--help"]
