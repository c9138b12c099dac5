# Builds the wheel and installs it with the locked dependencies; the second stage has only Python
# and that virtual environment: no compiler, no build tool, no root.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# Dependencies first: they change less often than the code and stay in the layer cache.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
    && python -m venv /opt/driftdetector \
    && /opt/driftdetector/bin/pip install --require-hashes --only-binary :all: -r requirements/runtime.txt

COPY . .
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/driftdetector/bin/pip install --no-deps /tmp/wheel/*.whl \
    && /opt/driftdetector/bin/pip uninstall --yes pip setuptools


FROM python:3.11-slim-bookworm
# With a read-only root file system everything temporary is under /tmp: Numba keeps the machine
# code that it compiles for this very processor there.
ENV PATH=/opt/driftdetector/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba
COPY --from=build /opt/driftdetector /opt/driftdetector
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["driftdetector", "health"]
ENTRYPOINT ["driftdetector"]
CMD ["worker"]
