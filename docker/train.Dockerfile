# Everything but TFX: preprocess, train, evaluate and export.
#   docker build -f docker/train.Dockerfile -t psad-tf .
#   docker run --rm -v "$PWD/data:/data" psad-tf train --lists_dir /data/lists --output_dir /data/run
FROM python:3.11-slim
WORKDIR /opt/psad-tf
COPY requirements.txt .
RUN pip install --no-cache-dir --no-deps -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY psad_tf psad_tf
COPY beam beam
COPY export export
COPY tfx_pipeline tfx_pipeline
COPY configs configs
RUN pip install --no-cache-dir --no-deps . && useradd --create-home psad
USER psad
WORKDIR /home/psad
ENTRYPOINT ["psad"]
