"""A model that fails as it is told: the way of every error code from the server's codec to a client's exception."""

import triton_python_backend_utils as pb_utils

from ananke_client.errors import ErrorCode, error_of
from ananke_server.engine.request import Delta
from ananke_server.triton.access import Access
from ananke_server.triton.codec import decode_request, encode_delta, outputs_of, triton_error


class TritonPythonModel:
    def execute(self, requests):
        for triton_request in requests:
            request, sender = decode_request(triton_request, Access(None)), triton_request.get_response_sender()
            if request.stream:
                sender.send(encode_delta(Delta("partial ", 1), outputs_of(triton_request)))
            code, _, message = request.prompt.partition(" ")
            error = error_of(code, message) if code in set(ErrorCode) else ZeroDivisionError(message)
            sender.send(pb_utils.InferenceResponse(error=triton_error(error)), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
