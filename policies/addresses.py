"""Where workers may listen: prompts and probes go where a record says, so an address is a permission like a region.

Rules are CIDR ranges, each perhaps with a port; names are allowed only where there are no rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LINK_LOCAL = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")))
"""Where clouds answer with a machine's own credentials (the last is AWS's over IPv6). Nobody serves models there."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def reaches(address: str, rules: Sequence[str]) -> bool:
    """Whether HOST:PORT is inside one of the rules; without any, whether it is not link-local."""
    host, _, port = address.rpartition(":")
    ip = _literal(host)
    if any(_inside(ip, int(port), *allowed_address(rule)) for rule in rules):
        return True
    if rules or (ip is None and _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2])):
        return False  # a name that ends in a number is read as an address by resolvers: 0xa9fea9fe, 127.1
    return ip is None or not any(ip in network for network in LINK_LOCAL)


def allowed_address(rule: str) -> tuple[Network, int | None]:
    """Read `10.0.0.0/8`, `10.1.2.3:9000`, `10.1.2.0/24:9000`, `fd00::/8` or `[fd00::/8]:9000`. Raises ValueError."""
    if rule.startswith("["):
        network, bracket, rest = rule[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError(f"{rule!r} has no port after its bracket")
        port = rest[1:]
    elif rule.count(":") == 1:
        network, _, port = rule.partition(":")
    else:
        return ipaddress.ip_network(rule), None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port")
    return ipaddress.ip_network(network), int(port)


def _inside(ip: Ip | None, port: int, network: Network, only: int | None) -> bool:
    return ip is not None and ip in network and only in (None, port)


def _literal(host: str) -> Ip | None:
    """The address a host is, with IPv4 taken out of its IPv6 forms; None for a name."""
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
