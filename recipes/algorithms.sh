# shellcheck shell=bash disable=SC2034  # sourced by the recipes, which use ALGORITHM
# Turn ALGO and the variables below into the array ALGORITHM: all in which one run of a recipe differs from another.
# Each value names its source:
#   [paper]  reported of LAD, arXiv 2602.20132 (known here by its abstract and by notes on it, not by its text)
#   [verl]   verl's default, or the example named
#   [ours]   this project's choice, not measured at this scale

# LAD's own; empty: verl-lad's default, for lad_anchored that of algorithm.lad.preset=diverse (docs/anchoring.md).
ETA=${ETA:-}                                    # lad 0.25 [paper: 1/eta = 4]; lad_anchored 0.125 [ours: the study's]
DIVERGENCE=${DIVERGENCE:-}                      # js [paper]
RATIO=${RATIO:-}                                # lad token [ours: as GRPO's]; lad_anchored sequence; or geometric
ANCHOR=${ANCHOR:-}                              # lad old [paper]; lad_anchored reference [ours]
PARTITION=${PARTITION:-}                        # none [paper]; group, balanced. With the anchor, none means balanced [ours]
KL_COEF=${KL_COEF:-0.001}                       # grpo_kl: [verl: algorithm.kl_ctrl.kl_coef]
ENTROPY_COEFF=${ENTROPY_COEFF:-0.001}           # entropy: [ours]
KL_COV_RATIO=${KL_COV_RATIO:-0.002}             # kl_cov: Cui et al. 2025, arXiv 2505.22617, at 7B; verl's default is 0.0002
KL_COV_COEF=${KL_COV_COEF:-1.0}                 # kl_cov: the same paper; verl's default is 0.1
CLIP_COV_RATIO=${CLIP_COV_RATIO:-0.0002}        # clip_cov: the same paper, and [verl]
CLIP_COV_LB=${CLIP_COV_LB:-1.0}                 # clip_cov: the same
CLIP_COV_UB=${CLIP_COV_UB:-5.0}                 # clip_cov: the same
DRO_BETA=${DRO_BETA:-0.25}                      # dro: [ours: LAD's eta; verl has no default]
GSPO_CLIP_LOW=${GSPO_CLIP_LOW:-0.0003}          # gspo: [verl: examples/gspo_trainer, after arXiv 2507.18071, section 5.1]
GSPO_CLIP_HIGH=${GSPO_CLIP_HIGH:-0.0004}        # gspo: the same

# The aggregation under which each ratio is the exact gradient of its objective (docs/settings.md).
case ${RATIO} in
    ""|token) LAD_AGG_MODE=token-mean ;;
    sequence) LAD_AGG_MODE=seq-mean-token-sum ;;
    geometric) LAD_AGG_MODE=seq-mean-token-mean ;;
    *)
        echo "RATIO=${RATIO} is not allowed: token, sequence or geometric" >&2
        exit 2 ;;
esac

case ${ALGO} in
    lad|lad_anchored)
        ALGORITHM=(
            algorithm.policy_loss=lad
            algorithm.adv_estimator=lad
            ${ETA:+"algorithm.lad.eta=${ETA}"}
            ${DIVERGENCE:+"algorithm.lad.divergence=${DIVERGENCE}"}
            ${RATIO:+"algorithm.lad.ratio=${RATIO}"}
            ${RATIO:+"actor_rollout_ref.actor.loss_agg_mode=${LAD_AGG_MODE}"}
            ${ANCHOR:+"algorithm.lad.anchor=${ANCHOR}"}
            ${PARTITION:+"algorithm.lad.partition=${PARTITION}"}
        )
        if [[ ${ALGO} == lad_anchored ]]; then
            ALGORITHM+=(algorithm.lad.preset=diverse)
        fi ;;
    grpo)
        ALGORITHM=(algorithm.adv_estimator=grpo) ;;
    grpo_kl)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            algorithm.use_kl_in_reward=True
            algorithm.kl_ctrl.kl_coef="${KL_COEF}"
        ) ;;
    kl_cov)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            actor_rollout_ref.actor.policy_loss.loss_mode=kl_cov
            actor_rollout_ref.actor.policy_loss.kl_cov_ratio="${KL_COV_RATIO}"
            actor_rollout_ref.actor.policy_loss.ppo_kl_coef="${KL_COV_COEF}"
        ) ;;
    clip_cov)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            actor_rollout_ref.actor.policy_loss.loss_mode=clip_cov
            actor_rollout_ref.actor.policy_loss.clip_cov_ratio="${CLIP_COV_RATIO}"
            actor_rollout_ref.actor.policy_loss.clip_cov_lb="${CLIP_COV_LB}"
            actor_rollout_ref.actor.policy_loss.clip_cov_ub="${CLIP_COV_UB}"
        ) ;;
    entropy)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            actor_rollout_ref.actor.entropy_coeff="${ENTROPY_COEFF}"
        ) ;;
    gspo)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            actor_rollout_ref.actor.policy_loss.loss_mode=gspo
            actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
            actor_rollout_ref.actor.clip_ratio_low="${GSPO_CLIP_LOW}"
            actor_rollout_ref.actor.clip_ratio_high="${GSPO_CLIP_HIGH}"
        ) ;;
    dro)
        ALGORITHM=(
            algorithm.adv_estimator=grpo
            actor_rollout_ref.actor.policy_loss.loss_mode=dro
            actor_rollout_ref.actor.policy_loss.dro_beta="${DRO_BETA}"
        ) ;;
    *)
        echo "ALGO=${ALGO} is not allowed: lad, lad_anchored, grpo, grpo_kl, kl_cov, clip_cov, entropy, gspo or dro" >&2
        exit 2 ;;
esac
