"""Put attention into a network: find the places, build the modules, attach them, report."""

from sgenet.surgery.insertion import add_attention, attach_recorded, insert_attention
from sgenet.surgery.report import AttentionReport, Placed, attention_report
from sgenet.surgery.sites import Site, find_sites

__all__ = [
    "AttentionReport",
    "Placed",
    "Site",
    "add_attention",
    "attach_recorded",
    "attention_report",
    "find_sites",
    "insert_attention",
]
