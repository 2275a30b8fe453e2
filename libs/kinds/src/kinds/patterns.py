"""Patterns of the schemas, in the regular expressions that Kubernetes takes (RE2: no look-around)."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"^({_OCTET}\.){{3}}{_OCTET}$"
CIDR4 = rf"^({_OCTET}\.){{3}}{_OCTET}/(3[0-2]|[12]?[0-9])$"
MAC = r"^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$"
# registry with an optional port, path, optional tag, optional digest
IMAGE_REFERENCE = (
    r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]+)?"
    r"(@[A-Za-z0-9_+.-]+:[A-Fa-f0-9]{32,})?$"
)
ENDPOINT = r"^[a-z][a-z0-9]*(\+[a-z0-9]+)?://[^\s]*$"
# five fields, or a name; the meaning of the fields is checked by whoever schedules
_FIELD = r"[0-9A-Za-z*?/,#-]+"
CRON = rf"^(@(annually|yearly|monthly|weekly|daily|midnight|hourly)|@every [0-9a-zµ.]+|({_FIELD}\s+){{4}}{_FIELD})$"
