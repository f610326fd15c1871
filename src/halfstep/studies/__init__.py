"""The studies of the AdaRound paper, to be repeated: one file each, by the name of its table or figure."""

from halfstep.studies.abstract import STUDIES, AbstractFigure, AbstractStudy, AbstractTable, Line
from halfstep.studies.figure_1 import Figure1
from halfstep.studies.figure_2 import Figure2
from halfstep.studies.figure_3 import Figure3
from halfstep.studies.figure_4 import Figure4
from halfstep.studies.laboratory import Laboratory, Measurement
from halfstep.studies.lsq_table import LsqTable
from halfstep.studies.outcome import Entry, Outcome, Row
from halfstep.studies.sat_table import SatTable
from halfstep.studies.settings import Cell, Published, Settings, TrainedCell
from halfstep.studies.subject import Subject, load_subject
from halfstep.studies.table_1 import Table1
from halfstep.studies.table_2 import Table2
from halfstep.studies.table_3 import Table3
from halfstep.studies.table_4 import Table4
from halfstep.studies.table_5 import Table5
from halfstep.studies.table_6 import Table6
from halfstep.studies.table_8 import Table8
from halfstep.studies.table_10 import Table10

__all__ = [
    "STUDIES",
    "AbstractFigure",
    "AbstractStudy",
    "AbstractTable",
    "Cell",
    "Entry",
    "Figure1",
    "Figure2",
    "Figure3",
    "Figure4",
    "Laboratory",
    "Line",
    "LsqTable",
    "Measurement",
    "Outcome",
    "Published",
    "Row",
    "SatTable",
    "Settings",
    "Subject",
    "Table1",
    "Table2",
    "Table3",
    "Table4",
    "Table5",
    "Table6",
    "Table8",
    "Table10",
    "TrainedCell",
    "load_subject",
]
