"""What a careful colleague checks before a week of GPU time; every check gives findings with a verdict and a remedy."""

from finetune.doctor.examination import Examination, examine, examine_structures
from finetune.doctor.findings import Finding
from finetune.doctor.labels import check_labels, not_compared

__all__ = ["Examination", "Finding", "check_labels", "examine", "examine_structures", "not_compared"]
