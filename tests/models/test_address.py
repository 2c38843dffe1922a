"""What of a URL may be shown, and which hosts are this machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.models.address import is_local, shown

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h.test/v1", "https://h.test/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/"),
        (f"https://user:{SECRET}@h.test:8443/v1", "https://h.test:8443/v1"),
        (f"https://{SECRET}@h.test/v1", "https://h.test/v1"),
        (f"https://h.test/v1?key={SECRET}&x=1#{SECRET}", "https://h.test/v1"),
        (f"user:{SECRET}@h.test/v1", "(not a web address)"),
        (f"https://user:{SECRET}/x@h.test/v1", "(not a web address)"),
        (f"ftp://user:{SECRET}@h.test/", "(not a web address)"),
        ("", "(not a web address)"),
    ],
)
def test_scheme_host_port_and_path_are_shown(url: str, expected: str) -> None:
    assert shown(url) == expected


@given(st.text(st.sampled_from("ab1:@/?#%[]\\ é.")), st.text(st.sampled_from("ab1@:?#&=")))
def test_a_password_or_query_is_never_shown(odd: str, query: str) -> None:
    password = f"user:{SECRET}{odd}"
    assert SECRET not in shown(f"https://{password}@h.test/v1")
    assert SECRET not in shown(f"https://h.test/v1?{query}{SECRET}")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("10.0.0.1", False),
        ("localhost.h.test", False),
    ],
)
def test_this_machines_own_hosts_are_known(host: str, expected: bool) -> None:
    assert is_local(host) is expected
