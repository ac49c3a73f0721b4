# geoseg on CPU and NVIDIA GPUs (with the NVIDIA container toolkit): torch brings all of CUDA that it needs.
#   docker build -t geoseg .
#   docker run --rm -v "$PWD:/work" geoseg predict scene.tif --model model
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY geoseg geoseg
RUN pip install --no-cache-dir ".[onnx,openvino,parquet,dask]" && rm -rf /src
# Any user may run it (--user), and what is kept between runs goes where that user may write.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["geoseg"]
CMD ["--help"]
