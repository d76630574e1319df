package org.palmtop.app;

import android.app.Activity;
import android.view.LayoutInflater;
import android.view.View;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Chat;

/** Attachments of the message that is being typed, each with a button to remove it. */
final class AttachedStrip {
    private final LinearLayout strip;
    private final Chat chat;
    private final Thumbnails thumbnails;
    private List<Attachment> shown = new ArrayList<Attachment>();

    AttachedStrip(Activity screen, Chat chat, Thumbnails thumbnails) {
        this.strip = (LinearLayout) screen.findViewById(R.id.attached);
        this.chat = chat;
        this.thumbnails = thumbnails;
    }

    void show(List<Attachment> attached) {
        if (attached.equals(shown)) {
            return;
        }
        shown = attached;
        strip.removeAllViews();
        for (final Attachment attachment : attached) {
            View row = LayoutInflater.from(strip.getContext()).inflate(R.layout.item_attached, strip, false);
            String words = Words.of(strip.getContext(), attachment);
            ((TextView) row.findViewById(R.id.label)).setText(words);
            ImageView preview = (ImageView) row.findViewById(R.id.preview);
            if (attachment.kind == Attachment.Kind.IMAGE) {
                thumbnails.show(preview, attachment);
            } else {
                preview.setImageResource(R.drawable.ic_sound);
                preview.setColorFilter(strip.getContext().getColor(R.color.accent));
            }
            View remove = row.findViewById(R.id.remove);
            remove.setContentDescription(strip.getContext().getString(R.string.do_remove_named, words));
            remove.setOnClickListener(new View.OnClickListener() {
                @Override
                public void onClick(View view) {
                    chat.detach(attachment);
                }
            });
            strip.addView(row);
        }
    }
}
