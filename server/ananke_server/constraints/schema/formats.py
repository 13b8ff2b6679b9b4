"""Formats: the values of ``format`` that are asserted, each by what its strings match. All others are annotations."""

from __future__ import annotations

from dataclasses import dataclass

_DAY = (
    r"(?:[0-9]{4}-(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|[0-9]{4}-(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|[0-9]{4}-02-(?:0[1-9]|1[0-9]|2[0-8])"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
_OFFSET = r"(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# A leap second is one in UTC: with an offset only the minute that the offset makes of 23:59 has it.
_TIME = rf"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?{_OFFSET}|23:59:60(?:\.[0-9]+)?(?:[zZ]|[+-]00:00))"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = r"[0-9a-fA-F]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
# RFC 3986, appendix A.
_IPV6 = (
    rf"(?:(?:{_H16}:){{6}}{_LS32}|::(?:{_H16}:){{5}}{_LS32}|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    rf"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)
_HOSTNAME = r"[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*(?:\.[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*)*"
_ADDRESS = r"[^@]{1,64}@[^.]{1,63}(?:\.[^.]{1,63})*"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_PCT = r"%[0-9a-fA-F]{2}"
_PCHAR = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_PCT})"
_SEGMENT_NC = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|{_PCT})+"
_PATH_ABEMPTY = rf"(?:/{_PCHAR}*)*"
_HOST = rf"(?:\[(?:{_IPV6}|[vV][0-9a-fA-F]+\.[a-zA-Z0-9._~!$&'()*+,;=:-]+)\]|(?:[a-zA-Z0-9._~!$&'()*+,;=-]|{_PCT})*)"
_AUTHORITY = rf"//(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|{_PCT})*@)?{_HOST}(?::[0-9]*)?"
_TAIL = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_ROOTED = rf"/(?:{_PCHAR}+{_PATH_ABEMPTY})?"
_URI = rf"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{_AUTHORITY}{_PATH_ABEMPTY}|{_ROOTED}|{_PCHAR}+{_PATH_ABEMPTY}|){_TAIL}"
_RELATIVE = rf"(?:{_AUTHORITY}{_PATH_ABEMPTY}|{_ROOTED}|{_SEGMENT_NC}{_PATH_ABEMPTY}|){_TAIL}"
# RFC 3987.
_PLANES = "".join(f"\\u{{{plane:X}0000}}-\\u{{{plane:X}FFFD}}" for plane in range(1, 15))
_UCS = "\\u{A0}-\\u{D7FF}\\u{F900}-\\u{FDCF}\\u{FDF0}-\\u{FFEF}" + _PLANES


def _international(pattern: str) -> str:
    """A pattern of RFC 3986 with the characters of RFC 3987 wherever the former has unreserved ones."""
    return pattern.replace("a-zA-Z0-9._~", f"a-zA-Z0-9{_UCS}._~")


_TIME_PART = r"T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DATE_PART = r"(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"


_LITERAL = rf"(?:[!#$&(-;=?-\[\]_a-z~{_UCS}]|{_PCT})"
_VARIABLE = rf"(?:[a-zA-Z0-9_]|{_PCT})(?:\.?(?:[a-zA-Z0-9_]|{_PCT}))*(?:\*|:[1-9][0-9]{{0,3}})?"
_EXPRESSION = rf"\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}}"
_IDN_LETTER = "[a-z0-9\\u00DF-\\u00F6\\u00F8-\\u00FF\\u03B1-\\u03C9\\u0430-\\u045F\\u3041-\\u3096\\u4E00-\\u9FA5\\uAC00-\\uD7A3]"
_IDN_LABEL = rf"{_IDN_LETTER}+(?:-{_IDN_LETTER}+)*"
# Their lengths are Punycode's: up to six letters for each that is not of ASCII.
_ASCII, _NOT_ASCII = "[a-z0-9-]", "[^\\x00-\\x7F]"
_IDN_LENGTH = rf"(?:{_ASCII}{{1,63}}|[^.]{{1,9}}|{_ASCII}{{0,15}}(?:{_NOT_ASCII}{_ASCII}{{0,14}}){{1,2}})"
_IDN_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~\u00A1-\uD7FF-]+"
_CLASS_ITEM = r"(?:[a-zA-Z0-9_ .,:;!?@#%&*+/=$~'\"<>|(){}]|\\[dDwWsS\\\]\[^.*+?/|(){}$-])"
_CLASS = rf"\[\^?(?:[a-z]-z|[A-Z]-Z|[0-9]-9|{_CLASS_ITEM})+\]"
_ATOM_OF_REGEX = rf"(?:[a-zA-Z0-9_ ,:;!@#%&=~'\"<>/-]|\.|\\[dDwWsS\\\]\[^.*+?/|(){{}}$]|{_CLASS})"
_REPEATED = r"(?:[*+?]\??|\{[0-9]{1,3},?\}\??)?"
_FLAT = rf"(?:{_ATOM_OF_REGEX}{_REPEATED}|[|^$])*"
_GROUP = rf"(?:{_ATOM_OF_REGEX}|\((?:\?:)?{_FLAT}\))"
_NESTED = rf"(?:{_GROUP}{_REPEATED}|[|^$])*"
_REGEX = rf"(?:(?:{_GROUP}|\((?:\?:)?{_NESTED}\)){_REPEATED}|[|^$])*"


@dataclass(frozen=True, slots=True)
class Format:
    """What a format's strings are: matches of every pattern (ECMA-262), of at most so many characters.

    Where it is not ``whole``, there are other strings of the format, so that what matches not may still have it.
    """

    patterns: tuple[str, ...]
    most: int | None = None
    whole: bool = False


def _whole(pattern: str) -> Format:
    return Format((f"^(?:{pattern})$",), whole=True)


def _subset(*patterns: str, most: int | None = None) -> Format:
    return Format(tuple(f"^(?:{pattern})$" for pattern in patterns), most)


ASSERTED: dict[str, Format] = {
    # RFC 3339, and its appendix A.
    "date": _whole(_DAY),
    "time": _subset(_TIME),
    "date-time": _subset(rf"{_DAY}[tT]{_TIME}"),
    "duration": _whole(rf"P(?:{_DATE_PART}(?:{_TIME_PART})?|{_TIME_PART}|[0-9]+W)"),
    # RFC 5321's Mailbox, without quoted local parts, without address literals of IPv6, and with labels as in a hostname.
    "email": _subset(rf"{_ATOM}(?:\.{_ATOM})*@(?:{_HOSTNAME}|\[{_IPV4}\])", _ADDRESS, most=254),
    # RFC 1123, without hyphens in a row, as only the labels that RFC 5890 reserves have them. Three regular expressions
    # that are deterministic each: one for all would have too many states.
    "hostname": _subset(_HOSTNAME, r"[^.]{1,63}(?:\.[^.]{1,63})*", most=253),
    # Of RFC 5890's labels those in the small letters of a few scripts that read from left to right.
    "idn-hostname": _subset(rf"{_IDN_LABEL}(?:\.{_IDN_LABEL})*", rf"{_IDN_LENGTH}(?:\.{_IDN_LENGTH})*", most=63),
    "idn-email": _subset(rf"{_IDN_ATOM}(?:\.{_IDN_ATOM})*@{_HOSTNAME}", _ADDRESS, most=254),
    "ipv4": _whole(_IPV4),
    # RFC 4291 and RFC 4122.
    "ipv6": _whole(_IPV6),
    "uuid": _whole(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    # RFC 3986.
    "uri": _whole(_URI),
    "uri-reference": _whole(rf"(?:{_URI}|{_RELATIVE})"),
    "iri": _subset(_international(_URI)),
    "iri-reference": _subset(_international(rf"(?:{_URI}|{_RELATIVE})")),
    # RFC 6570.
    "uri-template": _subset(rf"(?:{_LITERAL}|{_EXPRESSION})*"),
    # RFC 6901, and its relative form.
    "json-pointer": _whole(_POINTER),
    "relative-json-pointer": _whole(rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})"),
    # ECMA-262, with groups two deep, and without what only some places allow.
    "regex": _subset(_REGEX),
}
"""The formats that masks and verification assert, in every draft."""
