# SPDX-License-Identifier: Apache-2.0
"""Options: durations, help texts, registration, and what is checked when a service starts."""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_db import options as db_options

import blazar_vmexpire.conf
from blazar_vmexpire import RESOURCE_TYPE, terms
from blazar_vmexpire.conf import opts
from blazar_vmexpire.conf.types import Duration, format_duration, parse_duration
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.worker import tools

BEFORE_END = ["notification", "snapshot"]
ON_END = ["delete", "snapshot"]


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    """Our options with their defaults, and what has no default."""
    return _conf(virtual_vm={"undeliverable_contact": "operators@example.org"})


def _conf(**overrides: dict[str, Any]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for group, values in overrides.items():
        name = RESOURCE_TYPE if group == "virtual_vm" else group
        for option, value in values.items():
            conf.set_override(option, value, group=name)
    return conf


# Durations


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("60d", timedelta(days=60)),
        ("36h", timedelta(hours=36)),
        ("5m", timedelta(minutes=5)),
        ("30s", timedelta(seconds=30)),
        ("0", timedelta(0)),
        ("0d", timedelta(0)),
        (" 2d ", timedelta(days=2)),
        ("999999d", timedelta(days=999999)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "60", "d", "-1d", "+1d", "1.5h", "60D", "60 d", "1d12h", "1w", "1y", "60d\n;", "1000000d"],
)
def test_what_is_no_duration_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write a whole number and a unit") as e:
        parse_duration(text)
    assert repr(text.strip()) in str(e.value)
    assert "60d, 36h, 5m or 30s" in str(e.value)


def test_digits_of_other_scripts_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration("٦d")


@given(st.integers(min_value=0, max_value=999_999))
def test_a_written_duration_reads_the_same(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


@given(st.integers(min_value=1, max_value=999_999), st.sampled_from("dhms"))
def test_a_read_duration_is_written_in_its_largest_whole_unit(count: int, unit: str) -> None:
    duration = parse_duration(f"{count}{unit}")
    written = format_duration(duration)
    assert parse_duration(written) == duration
    assert int(written[:-1]) <= count


def test_a_fraction_of_a_second_is_rounded() -> None:
    assert format_duration(timedelta(seconds=1.6)) == "2s"


def test_a_duration_option_has_a_least_value() -> None:
    option = Duration(minimum=timedelta(minutes=1))
    assert option("1m") == timedelta(minutes=1)
    assert option(timedelta(hours=1)) == timedelta(hours=1)
    with pytest.raises(ValueError, match="59s is too short: the least is 1m"):
        option("59s")


@pytest.mark.parametrize("value", ["soon", "0s", "-5m"])
def test_a_wrong_duration_in_the_file_names_the_option(tmp_path: pathlib.Path, value: str) -> None:
    file = tmp_path / "blazar.conf"
    file.write_text(f"[{RESOURCE_TYPE}]\nminimum_notice = {value}\n")
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf(["--config-file", str(file)])
    with pytest.raises(cfg.ConfigFileValueError, match="minimum_notice"):
        conf[RESOURCE_TYPE].minimum_notice  # noqa: B018


def test_the_sample_file_shows_durations_as_people_write_them() -> None:
    option = Duration()
    assert option._formatter(timedelta(days=60)) == "60d"
    assert repr(option) == "Duration"
    assert option == Duration()
    assert option != Duration(minimum=timedelta(1))


# All options


def _ours() -> Iterator[tuple[str, cfg.Opt]]:
    for group, options in opts.list_opts():
        for option in options:
            yield group.name, option


OURS = list(_ours())


@pytest.mark.parametrize(
    ("group", "option"), OURS, ids=[f"{group}.{option.name}" for group, option in OURS]
)
def test_every_option_says_what_it_does(group: str, option: cfg.Opt) -> None:
    assert option.help, "it has no help text"
    if _from_keystoneauth(option):
        return
    words = option.help.split()
    assert len(words) >= 5, f"its help text says next to nothing: {option.help!r}"
    assert option.help.strip().endswith((".", ".\n")), f"no sentence: {option.help!r}"


def _from_keystoneauth(option: cfg.Opt) -> bool:
    modules = [sys.modules[f"blazar_vmexpire.conf.{name}"] for name in opts._group_modules()]
    return not any(option in module.OPTS for module in modules)


def test_names_of_options_are_unique_within_their_group() -> None:
    names = [(group, option.dest) for group, option in OURS]
    assert len(names) == len(set(names))


def test_what_could_give_access_is_secret() -> None:
    secret = {option.name for _, option in OURS if option.secret}
    assert {"password", "transport_url"} <= secret
    assert all(option.secret for _, option in OURS if option.name in ("password", "transport-url"))


def test_a_group_module_without_list_opts_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful.py").write_text("GROUP = None\nOPTS = []\n")
    path = [*blazar_vmexpire.conf.__path__, str(tmp_path)]
    monkeypatch.setattr(blazar_vmexpire.conf, "__path__", path)
    with pytest.raises(TypeError, match=r"blazar_vmexpire\.conf\.forgetful has no list_opts"):
        opts.list_opts()
    sys.modules.pop("blazar_vmexpire.conf.forgetful", None)


def test_every_default_is_valid(conf: cfg.ConfigOpts) -> None:
    for group, option in OURS:
        value = conf[group][option.dest] if not _from_keystoneauth(option) else None
        if isinstance(option.type, Duration) and option.default is not None:
            assert isinstance(value, datetime.timedelta)


# Registration


def test_an_override_is_for_one_configuration_only() -> None:
    one, other = _conf(), _conf()
    for group, option, value in (
        ("vmexpire_worker", "threads", 9),
        ("vmexpire_cloud", "region_name", "Elsewhere"),
        (RESOURCE_TYPE, "scope", "none"),
    ):
        before = other[group][option]
        one.set_override(option, value, group=group)
        assert one[group][option] == value
        assert other[group][option] == before, f"[{group}] {option} leaked"


def test_registering_twice_is_harmless(conf: cfg.ConfigOpts) -> None:
    opts.register_opts(conf)
    assert conf[RESOURCE_TYPE].undeliverable_contact == "operators@example.org"


def test_the_group_of_the_resource_can_be_left_to_blazar() -> None:
    conf = cfg.ConfigOpts()
    opts.register_opts(conf, resource_group=False)
    conf([], default_config_files=[], default_config_dirs=[])
    assert RESOURCE_TYPE not in conf
    assert "vmexpire_worker" in conf


# What is checked when a service starts


def _check(conf: cfg.ConfigOpts) -> None:
    terms.check(conf, BEFORE_END, ON_END)


def test_the_defaults_make_sense(conf: cfg.ConfigOpts) -> None:
    _check(conf)


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("before_end_action", "migrate", "notification, snapshot"),
        ("before_end_action", "delete", "notification, snapshot"),
        ("on_end_action", "notification", "delete, snapshot"),
        ("on_end_action", "", "delete, snapshot"),
        ("lease_duration", "2d", "minimum_notice (2d)"),
        ("extension_duration", "1d", "minimum_notice (2d)"),
        ("extension_window", "49h", "minimum_notice (2d)"),
    ],
)
def test_a_wrong_value_is_refused_by_a_sentence_that_names_it(
    conf: cfg.ConfigOpts, option: str, value: str, right: str
) -> None:
    conf.set_override(option, value, group=RESOURCE_TYPE)
    with pytest.raises(ConfigError) as error:
        _check(conf)
    sentence = str(error.value)
    shown = value if right.startswith("minimum_notice") else repr(value)
    assert sentence.startswith(f"[{RESOURCE_TYPE}] {option} = {shown} is ")
    assert right in sentence


def test_terms_that_only_just_fit(conf: cfg.ConfigOpts) -> None:
    for option in ("lease_duration", "extension_duration"):
        conf.set_override(option, "50h", group=RESOURCE_TYPE)
    _check(conf)
    conf.set_override("quarantine", "1m", group=RESOURCE_TYPE)
    with pytest.raises(ConfigError, match=r"lease_duration.*quarantine \(1m\)"):
        _check(conf)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"allowed_actions": ["shout"]}, "allowed_actions: 'shout' is not known: it must be one"),
        ({"calendar_closed": ["sat", "someday"]}, "closed day 'someday' is not known"),
        ({"calendar_time_zone": "Mars"}, "time zone 'Mars' is not known"),
        (
            {"calendar_closed": ["tue", "wed", "thu", "fri", "sat", "sun"]} | {"quarantine": "3d"},
            "no day within a year on which a server could end that is also open 3 days earlier",
        ),
    ],
)
def test_a_calendar_or_list_that_makes_no_sense_stops_the_start(
    conf: cfg.ConfigOpts, options: dict[str, Any], sentence: str
) -> None:
    for option, value in options.items():
        conf.set_override(option, value, group=RESOURCE_TYPE)
    with pytest.raises(ConfigError) as error:
        _check(conf)
    assert str(error.value).startswith(f"[{RESOURCE_TYPE}] ")
    assert sentence in str(error.value)


def test_options_become_terms(conf: cfg.ConfigOpts) -> None:
    conf.set_override("calendar_closed", ["sat", "sun"], group=RESOURCE_TYPE)
    conf.set_override("calendar_time_zone", "Europe/Zurich", group=RESOURCE_TYPE)
    conf.set_override("allowed_actions", ["snapshot"], group=RESOURCE_TYPE)
    conf.set_override("max_extensions", 3, group=RESOURCE_TYPE)
    conf.set_override("extension_window", "14d", group=RESOURCE_TYPE)
    _check(conf)
    found = terms.TermsBook(conf).defaults()
    assert str(found.calendar) == "the calendar (sat, sun; Europe/Zurich)"
    assert found.allowed_actions == ("snapshot",)
    assert (found.max_extensions, found.extension_window) == (3, timedelta(days=14))
    assert hash(found)


def test_somebody_has_to_get_what_no_owner_can(conf: cfg.ConfigOpts) -> None:
    conf.set_override("undeliverable_contact", None, group=RESOURCE_TYPE)
    with pytest.raises(ConfigError, match="undeliverable_contact is not set: it must be a mail"):
        _check(conf)
    conf.set_override("scope", "none", group=RESOURCE_TYPE)
    _check(conf)


def _assemble(conf: cfg.ConfigOpts) -> tools.Tools:
    db_options.set_defaults(conf)
    conf.set_override("connection", "sqlite://", group="database")
    return tools.assemble(conf)


@pytest.mark.parametrize("scope", ["all", "none"])
@pytest.mark.parametrize(
    "address", ["operators", "a@example.org, b@example.org", "Ops <ops@example.org>", "ops@ä.org"]
)
def test_an_undeliverable_contact_that_is_no_address_stops_the_start(
    conf: cfg.ConfigOpts, address: str, scope: str
) -> None:
    conf.set_override("undeliverable_contact", address, group=RESOURCE_TYPE)
    conf.set_override("scope", scope, group=RESOURCE_TYPE)
    with pytest.raises(ConfigError) as error:
        _assemble(conf)
    assert str(error.value).startswith(f"[{RESOURCE_TYPE}] undeliverable_contact: {address!a}")


def test_a_from_address_that_is_no_address_stops_the_start(conf: cfg.ConfigOpts) -> None:
    conf.set_override("from_address", "nobody at example.org", group="vmexpire_mail")
    with pytest.raises(ConfigError) as error:
        _assemble(conf)
    assert str(error.value).startswith(
        "[vmexpire_mail] from_address: 'nobody at example.org' is not a usable mail address"
    )


def test_a_digest_at_no_time_stops_the_start(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "blazar.conf"
    path.write_text("[vmexpire_mail]\ndigest = daily 08:00 Mars/Olympus_Mons\n")
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    with pytest.raises(ConfigError) as error:
        opts.check_values(conf)
    assert str(error.value).startswith(
        "[vmexpire_mail] digest: time zone 'Mars/Olympus_Mons' is not known: it must be"
    )


def test_certificates_that_are_none_stop_the_start(conf: cfg.ConfigOpts) -> None:
    conf.set_override("cafile", "/no/such/file.pem", group="vmexpire_mail")
    with pytest.raises(ConfigError) as error:
        _assemble(conf)
    assert str(error.value).startswith(
        "[vmexpire_mail] cafile: no CA certificates in '/no/such/file.pem': "
    )


def _wrong_values() -> Iterator[tuple[str, str]]:
    """Name every option of ours that not every text is right for, with one that is wrong."""
    for group, options in opts.list_opts():
        for option in options:
            try:
                option.type("bananas")
            except ValueError:
                yield group.name, option.dest


@pytest.mark.parametrize(("group", "name"), list(_wrong_values()))
def test_whatever_option_is_wrong_the_start_stops_and_says_which(
    tmp_path: pathlib.Path, group: str, name: str
) -> None:
    """One that is found only when it is needed would be found at each VM's end, in vain."""
    file = tmp_path / "blazar.conf"
    file.write_text(f"[{group}]\n{name} = bananas\n")
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    with pytest.raises(ConfigError) as error:
        _assemble(conf)
    sentence = str(error.value)
    assert sentence.startswith(f"[{group}] {name}: ")
    assert "bananas" in sentence


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ name }@example.org", "is not a Jinja2 template: "),
        ("{% if %}", "is not a Jinja2 template: "),
        ("{{ nam }}@{{ realm }}", "asks for nam, realm: what it can use is name, id, domain_id,"),
    ],
)
def test_a_wrong_template_of_addresses_stops_the_start(
    conf: cfg.ConfigOpts, template: str, sentence: str
) -> None:
    conf.set_override("mail_address_template", template, group="vmexpire_mail")
    with pytest.raises(ConfigError) as error:
        tools.check(conf)
    start = f"[vmexpire_mail] mail_address_template: {template!r} {sentence}"
    assert str(error.value).startswith(start)


def test_good_addresses_start(conf: cfg.ConfigOpts) -> None:
    conf.set_override("from_address", "Cloud <cloud@example.org>", group="vmexpire_mail")
    assert _assemble(conf)
