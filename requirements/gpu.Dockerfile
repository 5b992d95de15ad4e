# From the repository's root:
#   docker build -f requirements/gpu.Dockerfile -t raft .
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" raft raft doctor --gpu
# The host needs an NVIDIA driver of 580 or later and the NVIDIA Container Toolkit.

# with nvcc: vLLM's kernels may be compiled when they are first used
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      build-essential python3.12-dev python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/raft
ENV PATH=/opt/raft/bin:$PATH

# the pinned list first: it changes less often than the code
COPY requirements/gpu.txt /opt/
RUN pip install --no-cache-dir -r /opt/gpu.txt

COPY pyproject.toml README.md LICENSE /opt/source/
COPY raft /opt/source/raft
COPY rollout /opt/source/rollout
COPY rewards /opt/source/rewards
RUN pip install --no-cache-dir --no-deps /opt/source

WORKDIR /work
CMD ["raft", "--help"]
