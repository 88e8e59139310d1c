"""World parameters (traced numbers) and mechanism names (static choices) of the network dynamics.

One step is one hour; rates are per step. The numbers are those of the equations in the mechanism files; magnitudes are
structural hypotheses except where a source is named, and none of them is calibrated to one platform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from mamba.fields import setting


@struct.dataclass
class WorldParameters:
    """Numbers of the world, traced: changing them does not recompile.

    Every leaf is a scalar array under trace.

    References:
        Friedkin and Johnsen 1990 (anchoring); Deffuant et al. 2000 (bounded confidence); Pennycook and Rand 2022 and
        Vosoughi et al. 2018 (sharing of false items); Allcott et al. 2020 (scale of wellbeing effects).
    """

    # opinion
    opinion_rate: float = setting(
        0.08, "opinion change per attended item and unit of opinion distance", unit="per step", ge=0
    )
    opinion_anchor: float = setting(0.02, "pull of opinions back to the innate ones", unit="per step", ge=0, le=1)
    confidence: float = setting(0.8, "opinion distance within which an item attracts", unit="opinion", ge=0)
    confidence_width: float = setting(0.1, "softness of `confidence` and of `repulsion_distance`", unit="opinion", gt=0)
    repulsion: float = setting(0.25, "strength of repulsion relative to attraction", unit="relative", ge=0)
    repulsion_distance: float = setting(1.2, "opinion distance beyond which an item repels", unit="opinion", ge=0)
    examined_share: float = setting(
        0.3, "share of persuasion that is by looking; the rest is by clicking", unit="0 to 1", ge=0, le=1
    )
    self_weight: float = setting(
        1.0, "weight of a user's own opinion against an examined item (averaging mechanisms)", unit="relative", ge=0
    )
    innate_weight: float = setting(
        0.0, "weight of a user's innate opinion against an examined item (averaging mechanisms)", unit="relative", ge=0
    )
    # preference
    preference_rate: float = setting(0.1, "preference gain per click", unit="logits per click", ge=0)
    preference_decay: float = setting(0.01, "pull of preferences back to the initial ones", unit="per step", ge=0, le=1)
    # fatigue and attention
    fatigue_decay: float = setting(0.7, "share of fatigue that stays", unit="per step", ge=0, lt=1)
    fatigue_load: float = setting(0.06, "fatigue per examined item", unit="fatigue", ge=0)
    scroll: float = setting(0.80, "probability to scroll on to the next item when rested", unit="0 to 1", gt=0, lt=1)
    scroll_fatigue: float = setting(
        0.25, "share of `scroll` that one unit of fatigue removes", unit="per unit of fatigue", ge=0
    )
    # response
    click_base: float = setting(-2.4, "click log-odds of a neutral item", unit="logits")
    click_interest: float = setting(3.0, "click log-odds per unit of interest match", unit="logits")
    click_agreement: float = setting(0.8, "click log-odds that full agreement adds", unit="logits")
    agreement_width: float = setting(0.5, "opinion distance at which agreement fades", unit="opinion", gt=0)
    click_glitter: float = setting(1.2, "click log-odds per unit of glitter", unit="logits")
    click_substance: float = setting(0.8, "click log-odds per unit of substance", unit="logits")
    click_toxicity: float = setting(
        0.7, "click log-odds per unit of toxicity, times the strength of the user's opinion", unit="logits"
    )
    reshare_base: float = setting(-2.2, "reshare log-odds of a clicked neutral item", unit="logits")
    reshare_glitter: float = setting(1.2, "reshare log-odds per unit of glitter", unit="logits")
    reshare_falsity: float = setting(
        1.0, "reshare log-odds that full falsity adds for a fully susceptible user", unit="logits"
    )
    reshare_toxicity: float = setting(0.8, "reshare log-odds per unit of toxicity", unit="logits")
    report_base: float = setting(-6.0, "report log-odds of an examined harmless item", unit="logits")
    report_toxicity: float = setting(3.5, "report log-odds per unit of toxicity", unit="logits")
    report_falsity: float = setting(1.0, "report log-odds per unit of falsity", unit="logits")
    # what else they do and say
    like_base: float = setting(-1.5, "like log-odds of a clicked item", unit="logits")
    like_agreement: float = setting(1.5, "like log-odds that full agreement adds", unit="logits")
    like_substance: float = setting(1.0, "like log-odds per unit of substance", unit="logits")
    reply_base: float = setting(-4.0, "reply log-odds of a clicked item", unit="logits")
    reply_disagreement: float = setting(1.5, "reply log-odds that full disagreement adds", unit="logits")
    reply_toxicity: float = setting(1.5, "reply log-odds per unit of toxicity", unit="logits")
    reply_answered: float = setting(0.2, "share of replies that the author answers", unit="0 to 1", ge=0, le=1)
    dwell_substance: float = setting(0.5, "substance at which half of the readers stay", unit="0 to 1", ge=0, le=1)
    profile_share: float = setting(0.1, "profile visits per click and unit of substance", unit="0 to 1", ge=0, le=1)
    video_share: float = setting(0.5, "plays per click and unit of glitter", unit="0 to 1", ge=0, le=1)
    negative_base: float = setting(-5.0, "negative-feedback log-odds of an examined item", unit="logits")
    negative_toxicity: float = setting(2.0, "negative-feedback log-odds per unit of toxicity", unit="logits")
    negative_disagreement: float = setting(1.0, "negative-feedback log-odds that full disagreement adds", unit="logits")
    survey_share: float = setting(0.02, "share of examined items that users are asked about", unit="0 to 1", ge=0, le=1)
    rating_toxicity: float = setting(
        0.6, "substance that a unit of toxicity outweighs in what users say an item is worth", unit="substance", ge=0
    )
    rating_falsity: float = setting(
        0.6, "substance that a unit of falsity outweighs in what users say an item is worth", unit="substance", ge=0
    )
    rating_neutral: float = setting(
        0.3, "substance of an item without harm that users say is worth half", unit="substance", ge=0
    )
    appeal_share: float = setting(0.3, "share of removals that authors appeal against", unit="0 to 1", ge=0, le=1)
    # wellbeing
    wellbeing_return: float = setting(0.1, "pull of wellbeing back to its set-point", unit="per step", ge=0, le=1)
    wellbeing_substance: float = setting(0.05, "wellbeing gained per clicked unit of substance", unit="SD", ge=0)
    wellbeing_toxicity: float = setting(0.06, "wellbeing lost per examined unit of toxicity", unit="SD", ge=0)
    wellbeing_comparison: float = setting(
        0.03, "wellbeing lost per examined unit of glitter above substance", unit="SD", ge=0
    )
    wellbeing_overuse: float = setting(0.03, "wellbeing lost per squared unit of fatigue", unit="SD", ge=0)
    # trust and resilience
    trust_setpoint: float = setting(0.7, "long-run trust without events", unit="0 to 1", ge=0, le=1)
    trust_return: float = setting(0.05, "pull of trust back to `trust_setpoint`", unit="per step", ge=0, le=1)
    trust_falsity: float = setting(0.02, "trust lost per examined unit of falsity", unit="trust", ge=0)
    trust_veracity: float = setting(0.003, "trust gained per examined unit of veracity", unit="trust", ge=0)
    trust_false_removal: float = setting(0.05, "trust lost per own benign item that is removed", unit="trust", ge=0)
    resilience_learning: float = setting(
        0.01, "resilience gained per examined false item that carries a label", unit="resilience", ge=0
    )
    resilience_decay: float = setting(0.005, "share of resilience that is forgotten", unit="per step", ge=0, le=1)
    # activity and churn
    activity_rate: float = setting(
        0.1, "speed at which activity follows what a user experiences", unit="per step", ge=0, le=1
    )
    activity_base: float = setting(0.2, "activity log-odds of a user without events", unit="logits")
    activity_satisfaction: float = setting(0.6, "activity log-odds per clicked unit of substance", unit="logits")
    activity_wellbeing: float = setting(0.8, "activity log-odds per SD of wellbeing", unit="logits")
    activity_trust: float = setting(1.0, "activity log-odds per unit of trust above `trust_setpoint`", unit="logits")
    activity_fatigue: float = setting(0.3, "activity log-odds lost per unit of fatigue", unit="logits")
    churn_threshold: float = setting(0.05, "activity below which a user may leave", unit="0 to 1", ge=0, le=1)
    churn_rate: float = setting(
        0.02, "probability to leave at an activity below `churn_threshold`", unit="per step", ge=0, le=1
    )
    arrival_activity: float = setting(0.3, "activity of the newcomer who takes a slot", unit="0 to 1", ge=0, le=1)
    # creators
    posting_rate: float = setting(0.25, "probability that an active creator posts", unit="per step", ge=0, le=1)
    posting_noise: float = setting(0.4, "standard deviation of the trials of a creator's strategy", unit="logits", gt=0)
    creator_rate: float = setting(0.02, "step size of a creator's adaptation by trial and error", unit="per post", ge=0)
    creator_anchor: float = setting(
        0.002, "pull of a creator back to the initial strategy", unit="per step", ge=0, le=1
    )
    baseline_rate: float = setting(
        0.1,
        "speed at which the reward that a creator expects follows the rewards of posts",
        unit="per post",
        ge=0,
        le=1,
    )
    payout_substance: float = setting(
        0.0, "reward that the platform adds per click and unit of substance", unit="clicks", ge=0
    )
    glitter_cost: float = setting(0.6, "share of substance that full glitter crowds out", unit="0 to 1", ge=0, le=1)
    # what platforms can measure
    signal_noise: float = setting(
        1.0, "standard deviation of the noise in the platform's harm signals", unit="logits", ge=0
    )
    verdict_noise: float = setting(
        0.7, "standard deviation of the noise in the reviewers' verdict", unit="logits", ge=0
    )
    harm_threshold: float = setting(0.5, "harm above which an item violates the rules", unit="0 to 1", ge=0, le=1)
    harm_width: float = setting(0.08, "softness of `harm_threshold`", unit="harm", gt=0)
    check_delay: float = setting(6.0, "age at which sampled items are reviewed", unit="steps", ge=0)
    check_share: float = setting(0.5, "share of items that are ever reviewed", unit="0 to 1", ge=0, le=1)
    memory: float = setting(0.9, "share of the platform's running logs that stays", unit="per step", ge=0, lt=1)
    reach_memory: float = setting(
        0.97, "share of the ledgers behind diversity and inequality that stays", unit="per step", ge=0, lt=1
    )
    # rewiring
    rewire_rate: float = setting(
        0.01,
        "probability to drop a tie that is looked at, across the largest opinion distance",
        unit="per step",
        ge=0,
        le=1,
    )
    rewire_distance: float = setting(
        0.8, "opinion distance at which dropping a tie is half as likely as across the largest", unit="opinion", ge=0
    )
    rewire_width: float = setting(0.15, "softness of `rewire_distance`", unit="opinion", gt=0)


def as_arrays(parameters: WorldParameters) -> WorldParameters:
    """Turns every number into a scalar array of jax's default precision (a Python number in a tree would compile twice)."""
    return jax.tree.map(lambda number: jnp.asarray(number, float), parameters)
