"""Codes of the labels in result objects.

SNOMED CT codes as DICOM has them (pydicom's dictionaries) but for three findings, which come from
an OMOP-derived list (epidural, subdural) and the list of OHDSI (intraparenchymal). For hemorrhage
into a ventricle no code could be confirmed: it is hemorrhage, at the site of a ventricle. The test
pins this table and checks the check digits (Verhoeff).
"""

from pydicom.sr.coding import Code

FINDINGS = {
    "epidural": Code("82999001", "SCT", "Epidural intracranial hemorrhage"),
    "intraparenchymal": Code("274100004", "SCT", "Cerebral hemorrhage"),
    "intraventricular": Code("50960005", "SCT", "Hemorrhage"),
    "subarachnoid": Code("21454007", "SCT", "Subarachnoid intracranial hemorrhage"),
    "subdural": Code("35486000", "SCT", "Subdural intracranial hemorrhage"),
    "any": Code("1386000", "SCT", "Intracranial hemorrhage"),
}
SITES = {
    "intraparenchymal": Code("12738006", "SCT", "Brain"),
    "intraventricular": Code("35764002", "SCT", "Brain ventricle"),
    "subarachnoid": Code("33930006", "SCT", "Cranial Subarachnoid Space"),
    "any": Code("1101003", "SCT", "Cranial Cavity"),
}
"""The findings of the other labels have their site in themselves."""
NAMES = {
    "epidural": "Epidural hemorrhage",
    "intraparenchymal": "Intraparenchymal hemorrhage",
    "intraventricular": "Intraventricular hemorrhage",
    "subarachnoid": "Subarachnoid hemorrhage",
    "subdural": "Subdural hemorrhage",
    "any": "Any intracranial hemorrhage",
}
"""What people read."""
PROCEDURE = Code("303653007", "SCT", "Computed tomography of head")
BODY_PART = "HEAD"
