"""A typed client of the API: what the CLI uses, and what a Python program may use.

Over 400 lines: one short method for each route, in the order of the API's pages.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from pydantic import BaseModel, ValidationError

from contracts import authorities, clock, files
from contracts.errors import ErrorInfo, ShoalError, UnavailableError, from_info
from fleet.api import (
    models,
    models_admin,
    models_alerts,
    models_devices,
    models_field,
    models_lessons,
    models_logs,
    models_rollouts,
    models_samples,
)
from fleet.rollout.spec import RolloutSpec
from fleet.store import audit
from fleet.store.audit import Entry, Filter
from fleet.store.entries import CLIENT_HEADER

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=BaseModel)
_TIMEOUT_S = 30.0
_COLLECT_S = 600.0


class Client:
    """Talks to one controller; a context manager.

    Every method raises :class:`contracts.errors.ShoalError` with the code that the controller
    gave, or ``UnavailableError`` (``controller-unreachable``).

    Args:
        url: of the controller, for example ``http://127.0.0.1:8080``.
        token: a bearer token.
        ca: a PEM file with authorities to trust beside the system's: the fleet's is
            ``ca/ca.pem`` in its folder.
    """

    def __init__(self, url: str, token: str, *, ca: Path | None = None) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            headers={
                "Authorization": f"Bearer {token}",
                CLIENT_HEADER: quote(audit.local().name, safe="@:. "),
            },
            timeout=_TIMEOUT_S,
            verify=_context(url, ca),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # Requests -----------------------------------------------------------------------------

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise _error_of(response)
        return response

    def _unreachable(self, error: Exception) -> UnavailableError:
        if re.search("not yet valid|has expired", str(error)):
            return UnavailableError(
                "controller-untrusted",
                f"the certificate of {self.url} does not hold at {clock.utc(time.time())}, the "
                f"time of this machine ({error}): set its clock; if that is right, the "
                "controller's was wrong, and `shoal fleet up` renews what has expired",
            )
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return UnavailableError(
                "controller-untrusted",
                f"the certificate of {self.url} is not to be trusted ({error}): name a file with "
                "its authority in SHOAL_CA (a fleet's own is ca/ca.pem in its folder), and the "
                "controller by a name that the certificate has",
            )
        help_ = "start it with `shoal fleet up`"
        if _is_of_the_name(error):
            help_ = "the name is not known here: give it an address in DNS or /etc/hosts"
        return UnavailableError(
            "controller-unreachable", f"no controller answers on {self.url} ({error}): {help_}"
        )

    def _get(self, kind: type[M], path: str, **parameters: Any) -> M:
        given = {k: v for k, v in parameters.items() if v is not None}
        return _read(kind, self._request("GET", path, params=given))

    def _post(self, kind: type[M], path: str, document: Any = None, **options: Any) -> M:
        return _read(kind, self._request("POST", path, json=document, **options))

    # Devices ------------------------------------------------------------------------------

    def devices_page(
        self, selector: str = "all", cursor: str | None = None, limit: int = 500
    ) -> models_devices.DevicePage:
        """One page of devices."""
        return self._get(
            models_devices.DevicePage, "/v1/devices", selector=selector, cursor=cursor, limit=limit
        )

    def devices(self, selector: str = "all") -> Iterator[models_devices.DeviceModel]:
        """All devices of a selector."""
        cursor: str | None = None
        while True:
            page = self.devices_page(selector, cursor)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def device(self, device: str) -> models_devices.DeviceModel:
        """One device."""
        return self._get(models_devices.DeviceModel, f"/v1/devices/{device}")

    def change_device(
        self,
        device: str,
        *,
        labels: dict[str, str] | None = None,
        groups: list[str] | None = None,
        version: int | None = None,
    ) -> models_devices.DeviceModel:
        """Changes the labels or groups that operators give."""
        given = {k: v for k, v in (("labels", labels), ("groups", groups)) if v is not None}
        headers = {"If-Match": f'"{version}"'} if version is not None else {}
        return _read(
            models_devices.DeviceModel,
            self._request("PATCH", f"/v1/devices/{device}", json=given, headers=headers),
        )

    def clones(self) -> list[models_devices.CloneModel]:
        """Identities that more than one device has."""
        return self._get(models_devices.ClonePage, "/v1/clones").items

    def updates(self, device: str, limit: int = 100) -> models_devices.UpdatePage:
        """What the device's updates did, newest first."""
        return self._get(models_devices.UpdatePage, f"/v1/devices/{device}/updates", limit=limit)

    def timeline(
        self, device: str, cursor: str | None = None, limit: int = 100
    ) -> models_devices.TimelinePage:
        """What happened to a device, newest first."""
        path = f"/v1/devices/{quote(device, safe='')}/timeline"
        return self._get(models_devices.TimelinePage, path, cursor=cursor, limit=limit)

    def telemetry(
        self,
        device: str,
        *,
        since: float | None = None,
        resolution: Literal["minute", "hour"] = "minute",
    ) -> models_devices.Series:
        """Figures of a device over time."""
        return self._get(
            models_devices.Series,
            f"/v1/devices/{device}/telemetry",
            since=since,
            resolution=resolution,
        )

    def metrics(self, seconds: float = 3600, selector: str | None = None) -> models.MetricsModel:
        """What the fleet measured."""
        return self._get(models.MetricsModel, "/v1/metrics", seconds=seconds, selector=selector)

    # Bundles and rollouts -----------------------------------------------------------------

    def bundles(self) -> list[models_rollouts.BundleModel]:
        """Published bundles, newest first."""
        return self._get(models_rollouts.BundlePage, "/v1/bundles").items

    def create_rollout(
        self,
        spec: RolloutSpec,
        *,
        idempotency_key: str | None = None,
        again: bool = False,
    ) -> models_rollouts.RolloutModel:
        """Creates a rollout; `again`: also of a version that was stopped before."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._post(
            models_rollouts.RolloutModel,
            "/v1/rollouts",
            spec.model_dump(mode="json"),
            headers=headers,
            params={"again": again},
        )

    def plan_rollout(self, spec: RolloutSpec) -> models_rollouts.PlanModel:
        """What a rollout would do."""
        return self._post(
            models_rollouts.PlanModel, "/v1/rollouts/plan", spec.model_dump(mode="json")
        )

    def rollouts(self, limit: int = 50) -> list[models_rollouts.RolloutModel]:
        """The newest rollouts."""
        return self._get(models_rollouts.RolloutPage, "/v1/rollouts", limit=limit).items

    def rollout(self, rollout: str) -> models_rollouts.RolloutModel:
        """One rollout."""
        return self._get(models_rollouts.RolloutModel, f"/v1/rollouts/{rollout}")

    def members(
        self, rollout: str, phase: str | None = None
    ) -> Iterator[models_rollouts.MemberModel]:
        """All devices of a rollout."""
        cursor: str | None = None
        while True:
            page = self._get(
                models_rollouts.MemberPage,
                f"/v1/rollouts/{rollout}/members",
                phase=phase,
                cursor=cursor,
                limit=1000,
            )
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def events(self, rollout: str, cursor: str | None = None) -> models_rollouts.EventPage:
        """What happened in a rollout, oldest first."""
        return self._get(
            models_rollouts.EventPage, f"/v1/rollouts/{rollout}/events", cursor=cursor, limit=1000
        )

    def command_rollout(
        self,
        rollout: str,
        command: Literal["approve", "pause", "resume", "abort"],
        *,
        version: int | None = None,
    ) -> models_rollouts.RolloutModel:
        """Approves, pauses, resumes or aborts a rollout."""
        headers = {"If-Match": f'"{version}"'} if version is not None else {}
        return self._post(
            models_rollouts.RolloutModel, f"/v1/rollouts/{rollout}/{command}", headers=headers
        )

    # Queries ------------------------------------------------------------------------------

    def query(self, query: models.Query) -> models.QueryResult:
        """Asks devices and returns all answers."""
        document = query.model_dump(mode="json", exclude_none=True) | {"stream": False}
        return self._post(
            models.QueryResult, "/v1/queries", document, timeout=query.timeout_s + _TIMEOUT_S
        )

    def stream(self, query: models.Query) -> Iterator[models.QueryAnswer]:
        """Asks devices and yields answers, and chunks of answers, as they come."""
        document = query.model_dump(mode="json", exclude_none=True) | {"stream": True}
        return self._lines(
            models.QueryAnswer, "/v1/queries", document, query.timeout_s + _TIMEOUT_S
        )

    def _lines(self, kind: type[M], path: str, document: Any, timeout: float) -> Iterator[M]:
        try:
            with self._http.stream("POST", path, json=document, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _error_of(response)
                for line in response.iter_lines():
                    yield _line_of(kind, line)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    # Logs ---------------------------------------------------------------------------------

    def logs(self, device: str, asked: models_logs.LogsAsked) -> Iterator[models_logs.LogPage]:
        """Lines of a device's log; one page, or for `follow_s` as they come."""
        path = f"/v1/devices/{quote(device, safe='')}/logs"
        document = asked.model_dump(mode="json", exclude_none=True)
        return self._lines(models_logs.LogPage, path, document, _TIMEOUT_S * 2)

    # Feedback -----------------------------------------------------------------------------

    def feedback(self, feedback: models_field.Feedback) -> models_field.NotedModel:
        """Tells a device whether an answer was right."""
        document = feedback.model_dump(mode="json", exclude_none=True)
        return self._post(
            models_field.NotedModel,
            "/v1/feedback",
            document,
            timeout=feedback.timeout_s + _TIMEOUT_S,
        )

    def field(
        self, seconds: float, selector: str | None = None, *, noise: float = 0.0
    ) -> models_field.FieldPage:
        """How often versions are right in the field; `noise`: share of wrong verdicts."""
        return self._get(
            models_field.FieldPage, "/v1/field", seconds=seconds, selector=selector, noise=noise
        )

    def field_of(
        self, name: str, version: str, seconds: float, *, by: str | None = None, noise: float = 0.0
    ) -> models_field.FieldDetail:
        """How often one version is right, by label and by a label of devices."""
        path = f"/v1/field/{name}/{version}"
        return self._get(models_field.FieldDetail, path, seconds=seconds, by=by, noise=noise)

    def pooled(self, name: str, version: str, week: str | None = None) -> models_field.PoolModel:
        """Figures of one version by groups of devices, in a week."""
        return self._get(models_field.PoolModel, f"/v1/pooled/{name}/{version}", week=week)

    # Lessons ------------------------------------------------------------------------------

    def teach(self, new: models_lessons.NewLesson) -> models_lessons.TaughtPage:
        """Teaches devices a label."""
        document = new.model_dump(mode="json", exclude_none=True)
        timeout = new.timeout_s + _TIMEOUT_S
        return self._post(models_lessons.TaughtPage, "/v1/lessons", document, timeout=timeout)

    def unteach(self, old: models_lessons.OldLesson) -> models_lessons.TaughtPage:
        """Takes a lesson back."""
        document = old.model_dump(mode="json", exclude_none=True)
        timeout = old.timeout_s + _TIMEOUT_S
        return self._post(models_lessons.TaughtPage, "/v1/lessons/undo", document, timeout=timeout)

    # Hard examples ------------------------------------------------------------------------

    def ask_samples(self, new: models_samples.NewAsk) -> models_samples.AskModel:
        """Asks devices for hard examples."""
        document = new.model_dump(mode="json")
        return self._post(models_samples.AskModel, "/v1/samples/asks", document, timeout=_COLLECT_S)

    def collect_samples(self, ask: str) -> models_samples.AskModel:
        """Asks again."""
        path = f"/v1/samples/asks/{ask}/collect"
        return self._post(models_samples.AskModel, path, timeout=_COLLECT_S)

    def asks(self) -> models_samples.AskPage:
        """Requests for hard examples that go on."""
        return self._get(models_samples.AskPage, "/v1/samples/asks")

    def samples(self, model: str) -> models_samples.TextPage:
        """All texts of a model with what people say of them."""
        return self._get(models_samples.TextPage, "/v1/samples", model=model)

    def label_queue(self, model: str, limit: int = 20) -> models_samples.QueueModel:
        """What to label next."""
        return self._get(models_samples.QueueModel, "/v1/samples/queue", model=model, limit=limit)

    def say_label(self, model: str, key: str, label: str | None) -> None:
        """Says the label of a text; None: passes it over."""
        document = {"model": model, "key": key, "label": label}
        self._request("POST", "/v1/samples/labels", json=document)

    def unsay_label(self, model: str, key: str) -> None:
        """Takes back what was said of a text."""
        self._request("DELETE", "/v1/samples/labels", params={"model": model, "key": key})

    def delete_samples(
        self, model: str, *, device: str | None = None, key: str | None = None
    ) -> int:
        """Deletes samples; how many."""
        given = {"model": model, "device": device, "key": key}
        parameters = {k: v for k, v in given.items() if v is not None}
        response = self._request("DELETE", "/v1/samples", params=parameters)
        return _read(models_samples.Deleted, response).samples

    # Alerts -------------------------------------------------------------------------------

    def alerts(self, which: Literal["open", "past", "all"]) -> list[models_alerts.AlertModel]:
        """The newest alerts."""
        return self._get(models_alerts.AlertPage, "/v1/alerts", which=which).items

    def rules(self) -> list[models_alerts.RuleModel]:
        """All alert rules."""
        return self._get(models_alerts.RulePage, "/v1/alerts/rules").items

    def add_rule(self, new: models_alerts.NewRule) -> models_alerts.RuleModel:
        """Adds an alert rule."""
        document = new.model_dump(mode="json", exclude_none=True)
        return self._post(models_alerts.RuleModel, "/v1/alerts/rules", document)

    def remove_rule(self, rule: str) -> None:
        """Removes an alert rule."""
        self._request("DELETE", f"/v1/alerts/rules/{quote(rule, safe='')}")

    def silence_rule(self, rule: str, seconds: float) -> models_alerts.RuleModel:
        """Has nobody told of a rule's alerts for a while."""
        path = f"/v1/alerts/rules/{quote(rule, safe='')}/silence"
        return self._post(models_alerts.RuleModel, path, {"seconds": seconds})

    def test_alerts(self, emails: Sequence[str]) -> models_alerts.TestModel:
        """Sends a test message in every way in which alerts are told."""
        document = {"emails": list(emails)}
        return self._post(models_alerts.TestModel, "/v1/alerts/test", document)

    def deliveries(self) -> list[models_alerts.DeliveryModel]:
        """How the newest deliveries of alerts went."""
        return self._get(models_alerts.DeliveryPage, "/v1/alerts/deliveries", limit=200).items

    # Administration -----------------------------------------------------------------------

    def audit(self, limit: int = 100) -> list[models_admin.AuditModel]:
        """The newest changes."""
        return self._get(models_admin.AuditPage, "/v1/audit", limit=limit).items

    def audit_entries(self, wanted: Filter) -> Iterator[Entry]:
        """All entries that are wanted, newest first."""
        given = {k: v for k, v in msgspec.structs.asdict(wanted).items() if v not in ("", None)}
        cursor: str | None = None
        while True:
            page = self._get(
                models_admin.AuditPage, "/v1/audit", limit=1000, cursor=cursor, **given
            )
            for one in page.items:
                yield msgspec.convert(one.model_dump(), Entry)
            cursor = page.next
            if cursor is None:
                return

    def ready(self) -> models.Ready:
        """Whether the controller can do its work."""
        try:
            response = self._http.get("/readyz")
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.status_code not in (200, 503):
            raise _error_of(response)
        return _read(models.Ready, response)


def _context(url: str, ca: Path | None) -> ssl.SSLContext:
    if ca is None and url.lower().startswith("http:"):
        # Reading all authorities takes 20 ms, and none is asked: this one trusts nobody.
        return authorities.nobody()
    if ca is None:
        return authorities.context()
    text = files.read_small(ca, what="certificate file", code="bad-certificate")
    return authorities.context(text.decode("ascii", "replace"))


def _read(kind: type[M], response: httpx.Response) -> M:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise _not_ours(response) from error


def _line_of(kind: type[M], line: str) -> M:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        error = models.Error.model_validate_json(line).error
        raise from_info(ErrorInfo(error.code, error.message, error.detail)) from None


def _is_of_the_name(error: BaseException | None) -> bool:
    """Whether a name that has no address is at the bottom of an error."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def _error_of(response: httpx.Response) -> ShoalError:
    try:
        found = models.Error.model_validate_json(response.content).error
    except ValidationError:
        return _not_ours(response)
    error = from_info(ErrorInfo(found.code, found.message, found.detail))
    # A wrong request is the caller's to change: the exit code says so.
    error.exit_code = 2 if response.status_code in (400, 404, 413, 422) else 1
    return error


def _not_ours(response: httpx.Response) -> UnavailableError:
    return UnavailableError(
        "controller-unreachable",
        f"what answers on {response.url.netloc.decode('ascii')} is not a controller of this "
        f"version (status {response.status_code})",
    )
