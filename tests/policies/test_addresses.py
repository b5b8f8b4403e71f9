import pytest

from policies.addresses import allowed_address, reaches


@pytest.mark.parametrize(
    "rule", ["", "10.0.0.1/8", "10.0.0.0/33", "host", "host:80", "10.0.0.0/8:", "10.0.0.0/8:0", "10.0.0.0/8:99999",
             "10.0.0.0/8:+1", "[fd00::/8]", "[fd00::/8", "[fd00::/8]80", "[::1]:", "0x0a000001"]
)  # fmt: skip
def test_bad_ranges_are_refused(rule):
    with pytest.raises(ValueError, match=r"."):
        allowed_address(rule)


@pytest.mark.parametrize(
    ("address", "rules", "allowed"),
    [
        ("10.1.2.3:9000", ("10.0.0.0/8",), True),
        ("10.1.2.3:9000", ("10.0.0.0/8:9001", "10.1.2.3:9000"), True),
        ("10.1.2.3:9000", ("10.0.0.0/8:9001",), False),
        ("gpu.example.com:9000", ("0.0.0.0/0",), False),
        ("gpu.example.com:9000", (), True),
        ("169.254.169.254:80", (), False),
        ("[::ffff:169.254.169.254]:80", (), False),
        ("0xa9fea9fe:80", (), False),
        ("127.1:80", (), False),
    ],
)
def test_names_and_link_local_addresses_only_where_nothing_is_listed_and_listed(address, rules, allowed):
    assert reaches(address, rules) is allowed
