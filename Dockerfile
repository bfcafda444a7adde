# An image that trains, evaluates and prepares data; `--target beam` is one for Beam's workers.
#
#   docker build -t clip-pgs .                                # CPU
#   docker build -t clip-pgs --build-arg ACCELERATOR=tpu .    # or gpu, of NVIDIA
#   docker run --rm -v clip-pgs-runs:/app/runs clip-pgs       # the quickstart
#   docker run --rm --entrypoint python clip-pgs -m pgs.evaluate --help

# Beam's launcher of a worker; the version of requirements-data.txt (tests/test_packaging.py).
FROM apache/beam_python3.13_sdk:2.77.0 AS launcher

FROM python:3.13.9-slim-trixie AS packages
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONPATH=/app
# Large pages for the large buffers of a step on a CPU, as in the Makefile.
ENV GLIBC_TUNABLES=glibc.malloc.hugetlb=1
WORKDIR /app
# The packages come before the code: after a change of the code, a build reuses them.
COPY requirements.lock requirements*.txt ./
RUN python -m pip install --require-hashes -r requirements.lock
ARG ACCELERATOR=cpu
RUN case "$ACCELERATOR" in \
      cpu) ;; \
      tpu | gpu) python -m pip install -r "requirements-$ACCELERATOR.txt" ;; \
      *) echo "error: ACCELERATOR=$ACCELERATOR is unknown: give cpu, tpu or gpu" >&2; exit 1 ;; \
    esac

# Stays with root: the launcher writes to folders that the runner mounts for root.
FROM packages AS beam
RUN python -m pip install -r requirements-data.txt
COPY --from=launcher /opt/apache/beam /opt/apache/beam
COPY . .
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM packages AS train
# runs/ and the cache of data sets are the user's; a volume that is mounted there is, too.
RUN useradd --create-home --uid 1000 pgs && install --directory --owner=pgs --group=pgs runs
COPY . .
USER 1000
ENTRYPOINT ["python", "main.py"]
