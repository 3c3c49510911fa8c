#!/bin/sh
# Trains SpeechBrain's own ECAPA-TDNN recipe with C-SphereFace2 in place of
# AAM softmax. No file of SpeechBrain changes: three options do it.
#
#   sh speechbrain_ecapa_sphereface2.sh CHECKOUT --data_folder=/data/VoxCeleb \
#       --output_folder=results/ecapa_sphereface2
#
# CHECKOUT is a clone of https://github.com/speechbrain/speechbrain. The other
# options go to its training script. Take a new output folder: checkpoints of
# another loss have no bias to resume from.
set -e
recipe="$1/recipes/VoxCeleb/SpeakerRec"
shift

# 1. The loss, with a margin of 0.2 and a scale of 32. To change them, write
#    !new:speechbrain_ext.nnet.losses.SphereFace2 [C, 0.1, 40]
# 2. Its bias is trained as the other modules are.
# 3. The bias is saved in the checkpoints.
exec python "$recipe/train_speaker_embeddings.py" \
    "$recipe/hparams/train_ecapa_tdnn.yaml" \
    --compute_cost='!new:speechbrain_ext.nnet.losses.SphereFace2' \
    --modules='{compute_cost: !ref <compute_cost>}' \
    --checkpointer='{recoverables: {compute_cost: !ref <compute_cost>}}' \
    "$@"
