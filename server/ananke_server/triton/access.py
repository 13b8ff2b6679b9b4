"""Access: whether a request's API key is admitted, and whose it is.

Triton hands the header to a model as a request parameter, over gRPC and in plain infer; its generate extension over HTTP hands
over no headers, so there the key is a key of the body. It is taken out of the parameters here, before anything else reads them.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ananke_client.connection import API_KEY_HEADER
from ananke_client.errors import EngineUnavailableError, UnauthenticatedError
from ananke_server.api_keys import ApiKeyError, KeyFile
from ananke_server.settings import Settings, is_loopback

logger = logging.getLogger(__name__)

_HOW = f"give it as the header {API_KEY_HEADER}; with /generate and /generate_stream over HTTP, as {API_KEY_HEADER} in the body"


class Access:
    """The check of one model's requests; without a file of keys everybody is admitted."""

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """The check that the settings ask for.

        Raises:
            ApiKeyError: the file of keys cannot be used.
        """
        return cls(None if settings.api_key_file is None else KeyFile(settings.api_key_file))

    def admit(self, request: Any) -> tuple[dict[str, Any], str]:
        """The parameters of a Triton request, without the key; and the key's name, "" where none is checked.

        Raises:
            UnauthenticatedError: there is no key, or none that is admitted.
            EngineUnavailableError: the file of keys has become unusable.
        """
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
        # Over HTTP the header's name comes as it was written.
        sent = [parameters.pop(name) for name in list(parameters) if name.lower() == API_KEY_HEADER]
        if self._keys is None:
            return parameters, ""
        try:
            admitted = self._keys.keys()
        except ApiKeyError:
            raise EngineUnavailableError("the server cannot read its API keys now; its log says why") from None
        if not sent:
            raise UnauthenticatedError(f"no API key was sent: {_HOW}")
        names = {admitted.name_of(key) if isinstance(key, str) else None for key in sent}
        name = names.pop()
        if name is None or names:
            raise UnauthenticatedError("this API key is not admitted: ask for another whoever runs the server")
        return parameters, name


def log_openness(settings: Settings) -> None:
    """Say at a start what the settings leave open."""
    if settings.api_key_file is None:
        logger.warning("no API key is checked: whoever reaches the ports may generate (api_key_file)")
    elif settings.tls_certificate_file is None and not is_loopback(settings.host):
        logger.warning("API keys travel unencrypted to %s: set tls_certificate_file, or have a proxy with TLS before it", settings.host)
    if settings.trust_remote_code:
        logger.warning("code of the model's repository is run (trust_remote_code)")
