"""Re-exports the checkpoint readers of ``speechbrain_ext.integrations``.

    python -m speechbrain_ext.utils.conversion --family wespeaker \
        --config config.yaml --checkpoint avg_model.pt --output_folder DIR
"""

from speechbrain_ext.integrations.published_checkpoints import (
    convert_checkpoint,
    export_checkpoint,
    main,
    read_checkpoint,
)

__all__ = ["convert_checkpoint", "export_checkpoint", "read_checkpoint"]

if __name__ == "__main__":
    main()
