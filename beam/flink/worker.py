"""A Python worker beside a Flink task manager, which starts it as a process (environment `PROCESS`).

The task manager says where its provision service is, and the service says everything else.
"""

from __future__ import annotations

import argparse
import os
import sys

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format, text_format

from psad_tf.beam.compat import limit_worker_memory


def main() -> None:
    """Asks the provision service for the endpoints and becomes Beam's worker."""
    parser = argparse.ArgumentParser(description="Start a Beam worker for a Flink task manager.")
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    arguments, _ = parser.parse_known_args()
    channel = grpc.intercept_channel(
        grpc.insecure_channel(arguments.provision_endpoint), WorkerIdInterceptor(arguments.id)
    )
    service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
    info = service.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest(), timeout=60).info
    os.environ["WORKER_ID"] = arguments.id
    os.environ["PIPELINE_OPTIONS"] = json_format.MessageToJson(info.pipeline_options)
    for name, endpoint in (("CONTROL", info.control_endpoint), ("LOGGING", info.logging_endpoint)):
        descriptor = endpoints_pb2.ApiServiceDescriptor(url=endpoint.url)
        os.environ[f"{name}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(descriptor)
    limit_worker_memory()
    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
