# TensorFlow Serving with exported models inside. MODELS is a folder that holds psad/<version>, as `psad export` writes it.
#   docker build -f docker/serving.Dockerfile --build-arg MODELS=serving -t psad-serving .
#   docker run --rm -p 127.0.0.1:8500:8500 psad-serving
FROM tensorflow/serving:2.15.1
ARG MODELS=serving
COPY serving_config /config
COPY ${MODELS} /models
# A list's matrices are too small for oneDNN's operations to pay (docs/serving.md, "Measurements").
ENV TF_ENABLE_ONEDNN_OPTS=0
USER 1000
EXPOSE 8500
ENTRYPOINT ["/usr/bin/tensorflow_model_server"]
CMD ["--port=8500", "--model_config_file=/config/models.config", \
     "--allow_version_labels_for_unavailable_models=true", \
     "--enable_batching=true", "--batching_parameters_file=/config/batching_parameters.txt", \
     "--enable_model_warmup=true", "--tensorflow_inter_op_parallelism=-1"]
