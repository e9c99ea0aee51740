# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Certificates of the cluster: which must be issued and why, and the issuing itself. No files, no clock.

Everything is ECDSA P-256 (RFC 5480) with SHA-256. Leaf PEMs carry the private key (PKCS #8) and the certificate, in
this order, so that one file serves as both and can be replaced in one step.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

# Certificates are valid a little before they are made: clocks differ.
BACKDATE = datetime.timedelta(hours=1)
# RFC 5280, ub-common-name.
COMMON_NAME_LIMIT = 64


@dataclass(frozen=True)
class Wish:
    """One leaf certificate. common_name may be empty; names are DNS names and IP addresses mixed."""

    organization: str
    common_name: str = ""
    names: tuple[str, ...] = ()
    usages: tuple[str, ...] = ("server", "client")


@dataclass(frozen=True)
class Leaf:
    """A private key with its certificate and the intermediate certificates below the trusted ones."""

    key: CertificateIssuerPrivateKeyTypes
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True)
class Authority:
    """The cluster's own CA. key is None where it is kept elsewhere; certificates are all trusted ones."""

    certificates: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes | None = None

    @property
    def signing(self) -> x509.Certificate:
        """The certificate of the key, else the first one."""
        if self.key is None:
            return self.certificates[0]
        public = _public_bytes(self.key.public_key())
        for certificate in self.certificates:
            if _public_bytes(certificate.public_key()) == public:
                return certificate
        raise Refusal("the key of the authority belongs to none of its certificates")


def split_names(names: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return (DNS names, IP addresses in their normal form).

    `dns:` before a name makes it a DNS name whatever it looks like: some clients look for addresses only there.
    """
    hosts, addresses = set(), set()
    for name in names:
        if name.startswith("dns:"):
            hosts.add(name.removeprefix("dns:").lower())
            continue
        try:
            addresses.add(str(ipaddress.ip_address(name)))
        except ValueError:
            hosts.add(name.lower())
    return frozenset(hosts), frozenset(addresses)


def parse_leaf(pem: bytes) -> Leaf:
    """Read a PEM of key and certificates. Raises Refusal."""
    key = parse_key(pem)
    try:
        first, *chain = x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError) as error:
        raise Refusal(f"it holds no readable certificate ({error})") from error
    if _public_bytes(key.public_key()) != _public_bytes(first.public_key()):
        raise Refusal("its private key does not belong to its first certificate")
    return Leaf(key, first, tuple(chain))


def parse_authority(certificates: bytes, key: bytes | None) -> Authority:
    """Read the PEM of the trusted certificates and, if given, the one of the key. Raises Refusal."""
    try:
        loaded = tuple(x509.load_pem_x509_certificates(certificates))
        private = parse_key(key) if key is not None else None
    except (ValueError, Refusal) as error:
        raise Refusal(f"the authority cannot be read ({error})") from error
    authority = Authority(loaded, private)
    _signing = authority.signing  # raises where the key belongs to none of them
    return authority


def reason_to_issue(
    leaf: Leaf,
    wish: Wish,
    authority: Authority,
    now: datetime.datetime,
    renew_before: datetime.timedelta,
    *,
    since: datetime.datetime | None = None,
) -> str:
    """Return why the leaf must be issued anew, or an empty text where it is as wished.

    Parameters: since, when a rotation of all leaves began. A leaf that ends with its authority is not renewed for its age.
    """
    certificate = leaf.certificate
    if not _is_trusted(leaf, authority):
        return "issued by another authority"
    if since is not None and authority.key is not None and not _issued(authority.signing, certificate):
        return "issued by the authority that is being replaced"
    if since is not None and certificate.not_valid_before_utc + BACKDATE < since:
        return f"older than the rotation of {since:%Y-%m-%d %H:%M:%S} UTC"
    expires = certificate.not_valid_after_utc
    if expires - renew_before <= now and (expires <= now or expires < authority.signing.not_valid_after_utc):
        return f"expires at {expires:%Y-%m-%d %H:%M} UTC"
    if certificate.subject != _subject(wish):
        return f"subject is {certificate.subject.rfc4514_string()!r}"
    return difference_of_use(leaf, wish, exact=True)


def difference_of_use(leaf: Leaf, wish: Wish, exact: bool) -> str:
    """Return what the certificate lacks of names and usages; with exact also what it has too much."""
    found_names, found_addresses = _names_of(leaf.certificate)
    names, addresses = split_names(wish.names)
    missing = sorted((names - found_names) | (addresses - found_addresses))
    if missing:
        return f"lacks the names {', '.join(missing)}"
    extra = sorted((found_names - names) | (found_addresses - addresses))
    if exact and extra:
        return f"has the names {', '.join(extra)} too much"
    found_usages = _usages_of(leaf.certificate)
    lacking = [usage for usage in wish.usages if _usage(usage) not in found_usages]
    if lacking:
        return f"is not for use as {' and '.join(lacking)}"
    if exact and len(found_usages) > len(wish.usages):
        return "has more usages than wished"
    return ""


def problems_of_foreign(leaf: Leaf, wish: Wish, authority: Authority, now: datetime.datetime) -> list[str]:
    """Return all that makes a certificate from somebody else's authority unusable."""
    certificate = leaf.certificate
    problems = []
    if not _is_trusted(leaf, authority):
        problems.append("does not lead to a certificate in ca.crt")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        problems.append(
            f"is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC only"
        )
    if not wish.common_name and certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        problems.append("has a common name (etcd refuses client certificates with one at its JSON gateway)")
    use = difference_of_use(leaf, wish, exact=False)
    return [*problems, use] if use else problems


def parse_key(pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    """Read the PEM of a private key. Raises Refusal."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Refusal(f"it holds no readable private key ({error})") from error
    if not hasattr(key, "sign"):
        raise Refusal("its private key is for key exchange and cannot sign")
    return cast("CertificateIssuerPrivateKeyTypes", key)


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(organization: str, key, now: datetime.datetime, days: int, mark: str = "") -> x509.Certificate:
    """Return a self-signed CA certificate for the key, valid for `days`, that issues leaves only.

    Parameters: mark, added to its name, so that people can tell the authorities of a rotation apart.
    """
    title = " persistence CA" + (f" {mark}" if mark else "")
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:COMMON_NAME_LIMIT]),
            x509.NameAttribute(NameOID.COMMON_NAME, organization[: COMMON_NAME_LIMIT - len(title)] + title),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key.public_key(), now, now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue(wish: Wish, authority: Authority, now: datetime.datetime, days: int) -> Leaf:
    """Return a new key with its certificate, which never outlives the authority.

    Raises Refusal where the authority's key is not there.
    """
    if authority.key is None:
        raise Refusal("the key of the authority is not there")
    issuer = authority.signing
    key = make_key()
    end = min(now + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    hosts, addresses = split_names(wish.names)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(hosts)]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(_subject(wish), issuer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([_usage(name) for name in wish.usages]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Leaf(key, builder.sign(authority.key, hashes.SHA256()))


def belongs(certificate: x509.Certificate, key) -> bool:
    """Return whether the certificate is of this private key."""
    return _public_bytes(certificate.public_key()) == _public_bytes(key.public_key())


def key_pem(key) -> bytes:
    """Return the key as PKCS #8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return the certificates as PEM."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def leaf_pem(leaf: Leaf) -> bytes:
    """Return key, certificate and chain as one PEM."""
    return key_pem(leaf.key) + certificate_pem([leaf.certificate, *leaf.chain])


def _builder(subject, issuer, public_key, start, end) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(end)
    )


def _subject(wish: Wish) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, wish.organization[:COMMON_NAME_LIMIT])]
    if wish.common_name:
        name = wish.common_name if len(wish.common_name) <= COMMON_NAME_LIMIT else wish.common_name.split(".")[0]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_LIMIT]))
    return x509.Name(attributes)


def _names_of(certificate: x509.Certificate) -> tuple[frozenset[str], frozenset[str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset(), frozenset()
    hosts = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    return frozenset(name.lower() for name in hosts), frozenset(str(address) for address in addresses)


def _usage(name: str) -> x509.ObjectIdentifier:
    return {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}[name]


def _usages_of(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _is_trusted(leaf: Leaf, authority: Authority) -> bool:
    """Whether leaf, chain and a trusted certificate sign each other (dates are judged elsewhere)."""
    current = leaf.certificate
    for intermediate in leaf.chain:
        if any(_issued(trusted, current) for trusted in authority.certificates):
            return True
        if not _issued(intermediate, current):
            return False
        current = intermediate
    return any(_issued(trusted, current) for trusted in authority.certificates)


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public_bytes(key) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
