"""What the OpenAPI document cannot say, for schemathesis."""

import os
import time
import zlib

import requests
import schemathesis

# A campaign that stays open.
CAMPAIGN = os.environ["CAMPAIGN"]
CREATE = "POST /v1/campaigns"
EDIT = "PATCH /v1/campaigns/{id}"
STOPS = [EDIT, "POST /v1/campaigns/{id}/pause", "POST /v1/campaigns/{id}/close"]
CLAIM = "POST /v1/campaigns/{id}/coupons"
FIND = "GET /v1/coupons"
REDEEM = ["POST /v1/coupons/{id}/redeem", "POST /v1/redemptions"]
# Fields of a campaign with rules that JSON Schema cannot express, such as closes_at after opens_at, or bytes of a name.
RULES = {
    "name",
    "face_value",
    "currency",
    "quantity",
    "budget",
    "per_user_limit",
    "opens_at",
    "closes_at",
    "coupon_expires_at",
    "coupon_valid_for",
}


@schemathesis.hook
def filter_case(context, case):
    """Which requests are sent."""
    return case.operation.label not in STOPS or (case.path_parameters or {}).get("id") != CAMPAIGN


@schemathesis.hook
def map_case(context, case):
    """Gives each body an idempotency key of its own: with another body, a key in use would be refused."""
    headers = case.headers or {}
    key = headers.get("Idempotency-Key")
    if isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key and 0 < len(key) <= 240:
        told = zlib.crc32(repr((case.path_parameters, case.body)).encode(errors="surrogatepass"))
        headers["Idempotency-Key"] = f"{key}-{told}"
    return case


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether a failure counts. Data that fit the document may be refused for a rule that it tells in words alone; and a
    service that is busy may refuse once, with the seconds after which a retry succeeds."""
    if failure.code == "ST101" and response.status_code == 503 and "retry-after" in response.headers:
        time.sleep(int(response.headers["retry-after"][0]))
        with requests.Session() as session:
            return session.send(response.request).status_code >= 500
    if failure.code != "ST202" or response.status_code not in (400, 422):
        return True
    problem = response.json()
    if response.status_code == 400:
        # Whether a claim needs a key is a matter of the campaign.
        return case.operation.label != CLAIM or problem["type"] != "/problems/idempotency-key-required"
    fields = {error["field"] for error in problem.get("errors", [])}
    # A text may end with a line break for the pattern of If-Match as Python reads it; a header may not.
    if case.operation.label == EDIT and fields == {"If-Match"}:
        return False
    if case.operation.label in (CREATE, EDIT):
        return problem["type"] != "/problems/invalid" or not fields <= RULES
    # The last character of a code is a check of the others.
    if case.operation.label == FIND and fields == {"code"}:
        return False
    # Nor is every word of three letters a currency.
    if case.operation.label in REDEEM and fields <= {"code", "currency"}:
        return False
    # Only an end user may leave out whom a claim is for.
    return not (case.operation.label == CLAIM and fields == {"user_id"} and "user_id" not in case.body)
