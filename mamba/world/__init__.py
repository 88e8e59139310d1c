"""The differentiable network-dynamics model. It knows no algorithm: it meets them in `mamba.ecosystem` through ports."""
