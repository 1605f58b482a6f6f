# docker build -t knnlm . && docker run -it -v knnlm-results:/knnlm/results -v knnlm-downloads:/knnlm/downloads knnlm make smoke
# With GPUs: docker build --build-arg FAISS=gpu -t knnlm . && docker run --gpus all --ipc=host …
# (training on several GPUs needs more shared memory than Docker gives a container by default)
FROM debian:12
ARG FAISS=cpu
RUN apt-get update && apt-get install -y --no-install-recommends python3-dev python3-venv make g++ ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /knnlm
COPY . .
ENV PIP_NO_CACHE_DIR=1
RUN make FAISS=$FAISS .venv/ready
ENV PATH=/knnlm/.venv/bin:$PATH
CMD ["make", "smoke"]
