"""The one idea: a frozen prefix gives taps, a trainable suffix goes on from them and gives adapted ones."""
