"""An account: contacts that change, and every version that they ever had."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

MAIL_DOMAIN = "secret-mail.example"

_TEXTS = ("plain", "ümlaut ß", 'quote "x", comma', "two\nlines", "\u2028", "", None, " blank ", "1")
_NUMBERS = (0, 7, -3, 12.5, 9007199254740993, None)

Version = dict[str, Any]
"""A contact at some time: its fields, and under `custom` its custom fields by id."""


def iso(seconds: float) -> str:
    """Return a time as the API writes it."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class SimulatedAccount:
    """Contacts, lists, segments and custom fields, and every version a contact ever had."""

    def __init__(self, rng: random.Random, now: float, *, invalid_values: bool) -> None:
        self.contacts: dict[str, Version] = {}
        self.versions: dict[tuple[str, str], Version] = {}
        self.fields = {"e1_T": ("Plan", "Text"), "e2_N": ("seats", "Number")}
        self.audiences: dict[str, tuple[str, str, set[str]]] = {}
        self._invalid_values = invalid_values
        self._contact_ids = (f"c{number:03}" for number in range(10**6))
        for number in range(rng.randint(1, 4)):
            self._add_audience(f"{number:08x}-0000-4000-8000-000000000000", "list")
        for number in range(rng.randint(0, 1)):
            self._add_audience(f"{number + 8:08x}-0000-4000-8000-000000000000", "segment")
        for _ in range(rng.choice((0, 3, 12, 30))):
            self._add_contact(rng, now)

    def members(self, body: dict[str, Any]) -> dict[str, Version]:
        """Return what an export of a request body contains now."""
        ids = [*body.get("list_ids", ()), *body.get("segment_ids", ())]
        if not ids:
            return dict(self.contacts)
        members = set[str]().union(*(self.audiences[each][2] for each in ids))
        return {key: self.contacts[key] for key in sorted(members)}

    def change(self, rng: random.Random, now: float) -> None:
        """Let some time pass."""
        for _ in range(rng.choice((0, 1, 2, 6))):
            action = rng.choice(("add", "add", "update", "update", "update", "delete", "join"))
            some = rng.choice(sorted(self.contacts)) if self.contacts else None
            if action == "add" or some is None:
                self._add_contact(rng, now)
            elif action == "update":
                self._touch(some, now, rng)
            elif action == "delete":
                del self.contacts[some]
                for _, _, members in self.audiences.values():
                    members.discard(some)
            else:
                members = rng.choice(sorted(self.audiences.values(), key=lambda each: each[1]))[2]
                if some in members:
                    members.discard(some)
                elif self._touch(some, now, rng):
                    # INCREMENTAL misses, as documented, who joins with `updated_at` unchanged.
                    members.add(some)

    def change_fields(self, rng: random.Random) -> None:
        """Add, delete or replace a custom field; not during a run, which could not notice."""
        if not self.fields:
            self.fields["e1_T"] = ("Plan", "Text")
            return
        field_id = rng.choice(sorted(self.fields))
        name, type_ = self.fields[field_id]
        number = len(self.versions)
        action = rng.choice(("add", "delete", "retype"))
        if action != "add":
            del self.fields[field_id]
        if action == "add":
            # The second name is that of the column of a retyped field.
            names = {f"extra_{number}", f"{name}_{type_}".lower()}
            new = rng.choice(sorted(names - {each[0] for each in self.fields.values()}))
            self.fields[f"f{number}_T"] = (new, "Text")
        elif action == "retype":
            other = {"Text": "Number", "Number": "Text"}[type_]
            self.fields[f"f{number}_{other[0]}"] = (name, other)

    def _add_audience(self, id_: str, type_: str) -> None:
        self.audiences[id_] = (type_, f"{type_} {id_[:8]}", set())

    def _add_contact(self, rng: random.Random, now: float) -> None:
        id_ = next(self._contact_ids)
        self.contacts[id_] = {"contact_id": id_, "created_at": iso(now), "updated_at": ""}
        self._touch(id_, now, rng)
        for _, _, members in self.audiences.values():
            if rng.random() < 0.6:
                members.add(id_)

    def _touch(self, id_: str, now: float, rng: random.Random) -> bool:
        """Give a contact other values, unless it has changed in this second already."""
        if (id_, iso(now)) in self.versions:
            return False
        numbers = (*_NUMBERS, "n/a") if self._invalid_values else _NUMBERS
        values = {"Text": _TEXTS, "Number": numbers}
        version = {
            **self.contacts[id_],
            "email": f"{id_}.{rng.randrange(1000)}@{MAIL_DOMAIN}",
            "first_name": rng.choice(_TEXTS),
            "updated_at": iso(now),
            "custom": {key: rng.choice(values[type_]) for key, (_, type_) in self.fields.items()},
        }
        self.contacts[id_] = self.versions[id_, iso(now)] = version
        return True
