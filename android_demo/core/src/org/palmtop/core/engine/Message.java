package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.palmtop.core.media.MediaItem;

/** One message of a dialogue: a role, a text, and the images and sounds that come before it. */
public final class Message {
    public final String role;
    public final String text;
    public final List<MediaItem> media;

    public Message(String role, String text, List<? extends MediaItem> media) {
        this.role = role;
        this.text = text;
        this.media = Collections.unmodifiableList(new ArrayList<MediaItem>(media));
    }

    public static Message user(String text, MediaItem... media) {
        return new Message("user", text, Arrays.asList(media));
    }

    public static Message assistant(String text) {
        return new Message("assistant", text, Collections.<MediaItem>emptyList());
    }

    public static Message system(String text) {
        return new Message("system", text, Collections.<MediaItem>emptyList());
    }
}
