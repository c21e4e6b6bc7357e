"""Bundles: one folder with everything that a program needs to run a model; and model repositories for Triton."""

from __future__ import annotations

from ..formats.bundle_manifest import Manifest
from .opening import Bundle, open_bundle
from .verifying import VerifyResult, verify_bundle
from .writing import BundleResult, bundle

__all__ = ["Bundle", "BundleResult", "Manifest", "VerifyResult", "bundle", "open_bundle", "verify_bundle"]
