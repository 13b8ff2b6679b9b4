"""From a JSON schema to a Lark grammar that admits exactly its values, and to what no grammar can demand of them."""

from ananke_server.constraints.schema.compile import SchemaGrammar, schema_grammar

__all__ = ["SchemaGrammar", "schema_grammar"]
