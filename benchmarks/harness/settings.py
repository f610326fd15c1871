"""The settings of the rounding benchmark: which bits, one scale a tensor or one a channel, and the rule for the first and last layer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """outer_bits: of the weights of the first and the last layer. activation_bits: None where activations stay in float."""

    name: str
    weight_bits: int
    per_channel: bool
    activation_bits: int | None
    outer_bits: int

    @property
    def rule(self) -> str:
        """The rule for the first and last layer, in words."""
        if self.outer_bits == self.weight_bits:
            return f"every layer at {self.weight_bits} bits, the first and the last too"
        return f"{self.weight_bits} bits, the first and the last layer at {self.outer_bits}"

    @property
    def title(self) -> str:
        scales = "one scale a channel" if self.per_channel else "one scale a tensor"
        activations = "activations in float" if self.activation_bits is None else f"activations at {self.activation_bits} bits"
        return f"{self.name}: {self.rule}; {scales}; {activations}"


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("w4_tensor", 4, False, None, 4),
        Setting("w4_channel", 4, True, None, 4),
        Setting("w3_channel", 3, True, None, 8),
        Setting("w2_channel", 2, True, None, 8),
        Setting("w4a8", 4, True, 8, 4),
        Setting("w4a4", 4, True, 4, 4),
    )
}
