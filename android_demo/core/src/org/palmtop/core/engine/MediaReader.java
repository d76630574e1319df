package org.palmtop.core.engine;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ImageSpec;
import org.palmtop.core.bundle.ProcessorSpec;
import org.palmtop.core.media.DynamicHd;
import org.palmtop.core.media.DynamicHdLayout;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PhotoPolicy;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.Recording;
import org.palmtop.core.media.PreparedImage;
import org.palmtop.core.media.Slices;
import org.palmtop.core.media.SlicesLayout;
import org.palmtop.core.media.Sound;
import org.palmtop.core.text.Prompt;
import org.palmtop.core.text.TextProcessor;

/** Row counts of images and sounds without decoding them, and their feature rows when the decoder needs them. */
final class MediaReader {
    private final ProcessorSpec spec;
    private final TextProcessor text;
    private final Encoders encoders;

    MediaReader(ProcessorSpec spec, TextProcessor text, Encoders encoders) {
        this.spec = spec;
        this.text = text;
        this.encoders = encoders;
    }

    /**
     * Segments of an item in the prompt.
     *
     * @param index number of the item, counted per kind from 0 over the whole prompt.
     */
    List<Prompt.Segment> segments(MediaItem item, int index) {
        if (item instanceof Picture) {
            return segments((Picture) item, index);
        }
        try (Sound sound = sound((Recording) item)) {
            return Collections.singletonList(Prompt.Segment.rows(sound.rows()));
        }
    }

    /** Write an item's rows. */
    void features(MediaItem item, boolean visionProjector, FloatBuffer into, Encoders.Watch watch) {
        if (item instanceof Picture) {
            encoders.image(prepared((Picture) item), into, watch);
            return;
        }
        try (Sound sound = sound((Recording) item)) {
            encoders.audio(sound, visionProjector, into, watch);
        }
    }

    private List<Prompt.Segment> segments(Picture picture, int index) {
        checkSize(picture);
        if (spec.image instanceof ImageSpec.DynamicHd) {
            return Collections.singletonList(Prompt.Segment.rows(tiled(picture).featureRows()));
        }
        ImageSpec.Slices slices = (ImageSpec.Slices) spec.image;
        List<Prompt.Segment> segments = new ArrayList<Prompt.Segment>();
        for (String markup : sliced(picture).markup()) {
            if (!segments.isEmpty()) {
                segments.add(Prompt.Segment.rows(slices.queries));
            }
            segments.add(Prompt.Segment.text(text.markup(markup.replace(SlicesLayout.INDEX, String.valueOf(index)))));
        }
        return segments;
    }

    private PreparedImage prepared(Picture picture) {
        checkSize(picture);
        return spec.image instanceof ImageSpec.DynamicHd
                ? new DynamicHd(picture.open(), tiled(picture), (ImageSpec.DynamicHd) spec.image)
                : new Slices(picture.open(), sliced(picture), (ImageSpec.Slices) spec.image);
    }

    private DynamicHdLayout tiled(Picture picture) {
        return new DynamicHdLayout(picture.width, picture.height, (ImageSpec.DynamicHd) spec.image);
    }

    private SlicesLayout sliced(Picture picture) {
        return new SlicesLayout(picture.width, picture.height, (ImageSpec.Slices) spec.image);
    }

    private static void checkSize(Picture picture) {
        long pixels = (long) picture.width * picture.height;
        if (picture.width < 1 || picture.height < 1 || pixels > PhotoPolicy.MAX_PIXELS) {
            throw PalmtopException.input(picture.key + ": found an image of " + picture.width + " x " + picture.height
                    + " pixels, expected at most " + PhotoPolicy.MAX_PIXELS + " in all");
        }
    }

    private Sound sound(Recording recording) {
        return new Sound(recording.open(), spec.audio, recording.key);
    }
}
