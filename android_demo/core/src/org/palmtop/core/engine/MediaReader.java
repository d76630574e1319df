package org.palmtop.core.engine;

import java.nio.FloatBuffer;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ProcessorSpec;
import org.palmtop.core.media.ImageTiles;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PhotoPolicy;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.Recording;
import org.palmtop.core.media.Sound;
import org.palmtop.core.media.TileLayout;

/** How many rows an image or a sound takes, told without decoding it; and the rows, when the decoder needs them. */
final class MediaReader {
    private final ProcessorSpec spec;
    private final Encoders encoders;

    MediaReader(ProcessorSpec spec, Encoders encoders) {
        this.spec = spec;
        this.encoders = encoders;
    }

    /** Feature rows, and so ids in the prompt. */
    int rows(MediaItem item) {
        if (item instanceof Picture) {
            return layout((Picture) item).featureRows();
        }
        try (Sound sound = sound((Recording) item)) {
            return sound.rows();
        }
    }

    /** Write an item's rows. */
    void features(MediaItem item, boolean visionProjector, FloatBuffer into, Encoders.Watch watch) {
        if (item instanceof Picture) {
            Picture picture = (Picture) item;
            encoders.image(new ImageTiles(picture.open(), layout(picture), spec.image), into, watch);
            return;
        }
        try (Sound sound = sound((Recording) item)) {
            encoders.audio(sound, visionProjector, into, watch);
        }
    }

    private TileLayout layout(Picture picture) {
        long pixels = (long) picture.width * picture.height;
        if (picture.width < 1 || picture.height < 1 || pixels > PhotoPolicy.MAX_PIXELS) {
            throw PalmtopException.input(picture.key + ": found an image of " + picture.width + " x " + picture.height
                    + " pixels, expected at most " + PhotoPolicy.MAX_PIXELS + " in all");
        }
        return new TileLayout(picture.width, picture.height, spec.image);
    }

    private Sound sound(Recording recording) {
        return new Sound(recording.open(), spec.audio, recording.key);
    }
}
