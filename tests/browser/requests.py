"""Requests of a page in a browser."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Page, Request, WebSocket


def record(page: Page) -> list[str]:
    """Addresses of everything that the page asks for from now on, refused or not."""
    asked: list[str] = []

    def request(found: Request) -> None:
        asked.append(found.url)

    def socket(found: WebSocket) -> None:
        asked.append(found.url)

    page.on("request", request)
    page.on("websocket", socket)
    return asked


def outside(asked: list[str], host: str) -> list[str]:
    return [address for address in asked if urlsplit(address).scheme not in ("data", "blob") and host not in address]
