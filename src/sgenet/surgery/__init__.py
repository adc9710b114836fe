"""Put attention into a network: find the places, build the modules, attach them, report."""

from sgenet.surgery.attachment import Attended
from sgenet.surgery.fine_tuning import (
    classifier_names,
    decay_groups,
    freeze_host,
    hold_statistics,
    parameter_groups,
)
from sgenet.surgery.insertion import add_attention, attach_recorded, insert_attention, remove_attention
from sgenet.surgery.report import AttentionReport, Placed, attention_report
from sgenet.surgery.search import find_sites
from sgenet.surgery.sites import Site, Sites

__all__ = [
    "Attended",
    "AttentionReport",
    "Placed",
    "Site",
    "Sites",
    "add_attention",
    "attach_recorded",
    "attention_report",
    "classifier_names",
    "decay_groups",
    "find_sites",
    "freeze_host",
    "hold_statistics",
    "insert_attention",
    "parameter_groups",
    "remove_attention",
]
