package org.palmtop.core.engine;

import java.nio.FloatBuffer;
import java.util.Collections;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ProcessorSpec;
import org.palmtop.core.media.DynamicHd;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PhotoPolicy;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.Recording;
import org.palmtop.core.media.Sound;
import org.palmtop.core.text.Prompt;
import org.palmtop.core.media.DynamicHdLayout;

/** Row counts of images and sounds without decoding them, and their feature rows when the decoder needs them. */
final class MediaReader {
    private final ProcessorSpec spec;
    private final Encoders encoders;

    MediaReader(ProcessorSpec spec, Encoders encoders) {
        this.spec = spec;
        this.encoders = encoders;
    }

    /** Segments of an item in the prompt: all its rows together, for the existing kinds of processors. */
    List<Prompt.Segment> segments(MediaItem item) {
        if (item instanceof Picture) {
            return Collections.singletonList(Prompt.Segment.rows(layout((Picture) item).featureRows()));
        }
        try (Sound sound = sound((Recording) item)) {
            return Collections.singletonList(Prompt.Segment.rows(sound.rows()));
        }
    }

    /** Write an item's rows. */
    void features(MediaItem item, boolean visionProjector, FloatBuffer into, Encoders.Watch watch) {
        if (item instanceof Picture) {
            Picture picture = (Picture) item;
            encoders.image(new DynamicHd(picture.open(), layout(picture), spec.image), into, watch);
            return;
        }
        try (Sound sound = sound((Recording) item)) {
            encoders.audio(sound, visionProjector, into, watch);
        }
    }

    private DynamicHdLayout layout(Picture picture) {
        long pixels = (long) picture.width * picture.height;
        if (picture.width < 1 || picture.height < 1 || pixels > PhotoPolicy.MAX_PIXELS) {
            throw PalmtopException.input(picture.key + ": found an image of " + picture.width + " x " + picture.height
                    + " pixels, expected at most " + PhotoPolicy.MAX_PIXELS + " in all");
        }
        return new DynamicHdLayout(picture.width, picture.height, spec.image);
    }

    private Sound sound(Recording recording) {
        return new Sound(recording.open(), spec.audio, recording.key);
    }
}
