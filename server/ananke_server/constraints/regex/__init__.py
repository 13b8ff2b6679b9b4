"""Regular expressions as people write them, and the sources that llguidance's engine takes for the same languages."""

from ananke_server.constraints.regex.dialect import Dialect
from ananke_server.constraints.regex.errors import RegexError
from ananke_server.constraints.regex.quoting import quoted_any, quoted_length, quoted_literal
from ananke_server.constraints.regex.regex import Regex, parse_regex
from ananke_server.constraints.regex.source import rust_literal

__all__ = ["Dialect", "Regex", "RegexError", "parse_regex", "quoted_any", "quoted_length", "quoted_literal", "rust_literal"]
