"""The report's section on the integer program: what each operator's integers cost."""

from __future__ import annotations

from halfstep.integer.record import OperatorRecord, ProgramRecord
from halfstep.report import markup, words


def program_section(program: ProgramRecord | None) -> str:
    """The section; empty where no program was made."""
    if program is None:
        return ""
    heads = [f'<th scope="col">{head}</th>' for head in ("Layer", "Operator")]
    heads += [f'<th scope="col" class="n">{head}</th>' for head in ("multiplier off by", "codes that differ", "largest difference")]
    rows = (_operator_row(operator) for operator in program.operators)
    sentences = markup.prose(" ".join(words.program_sentences(program)))
    return f"<h2>Integer program</h2>\n<p>{sentences}</p>\n{markup.table(heads, rows, 'kept', 'Operators of the integer program')}"


def _operator_row(operator: OperatorRecord) -> str:
    cells = (
        words.share(operator.rescale_error) if operator.rescale_error else words.DASH,
        words.share(operator.num_differing / operator.num_codes) if operator.num_codes else words.DASH,
        words.codes(operator.max_difference) if operator.num_codes else words.DASH,
    )
    numbers = (f'<td class="n">{markup.text(cell)}</td>' for cell in cells)
    return markup.row([f'<td class="name">{markup.name(operator.name)}</td>', f"<td>{markup.text(operator.kind)}</td>", *numbers])
