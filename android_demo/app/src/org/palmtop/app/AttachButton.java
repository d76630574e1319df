package org.palmtop.app;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.ClipData;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.provider.MediaStore;
import android.view.View;
import java.io.File;
import org.palmtop.app.logic.Attachment;

/** The button that attaches a picture or a sound, and what comes back from the apps that it asks. */
final class AttachButton implements View.OnClickListener {
    private static final int GALLERY = 1;
    private static final int CAMERA = 2;
    private static final int SOUND = 3;
    private static final String PENDING = "pending_photo";

    private final ChatActivity screen;
    private final PalmtopApp app;
    private final Intake intake;
    /** File that the camera app writes; kept when this screen is closed meanwhile. */
    private String pendingPhoto;

    AttachButton(ChatActivity screen, PalmtopApp app, Bundle saved) {
        this.screen = screen;
        this.app = app;
        this.intake = new Intake(app);
        this.pendingPhoto = saved == null ? null : saved.getString(PENDING);
        screen.findViewById(R.id.attach).setOnClickListener(this);
    }

    void save(Bundle out) {
        out.putString(PENDING, pendingPhoto);
    }

    @Override
    public void onClick(View view) {
        Choice choice = new Choice(screen);
        if (app.chat().state().takesImages) {
            choice.add(R.string.menu_gallery, ask(GALLERY)).add(R.string.menu_camera, ask(CAMERA));
        }
        if (app.chat().state().takesAudio) {
            choice.add(R.string.menu_sound, ask(SOUND));
        }
        if (choice.isEmpty()) {
            screen.tell(screen.getString(R.string.picture_unsupported));
        } else {
            choice.show(0);
        }
    }

    private Runnable ask(final int what) {
        return new Runnable() {
            @Override
            public void run() {
                try {
                    if (what == CAMERA) {
                        takePhoto();
                    } else {
                        pick(what);
                    }
                } catch (ActivityNotFoundException error) {
                    screen.tell(screen.getString(what == CAMERA ? R.string.no_camera : R.string.no_files));
                }
            }
        };
    }

    private void pick(int what) {
        Intent pick = new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE);
        if (what == SOUND) {
            // Some apps call an .ogg file application/ogg.
            pick.setType("*/*").putExtra(Intent.EXTRA_MIME_TYPES, new String[] {"audio/*", "application/ogg"});
        } else {
            pick.setType("image/*");
        }
        screen.startActivityForResult(pick, what);
    }

    private void takePhoto() {
        File photo = CameraFile.newPhoto(screen);
        Uri address = CameraFile.address(photo);
        int grants = Intent.FLAG_GRANT_WRITE_URI_PERMISSION | Intent.FLAG_GRANT_READ_URI_PERMISSION;
        Intent take = new Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, address);
        take.setClipData(ClipData.newRawUri(null, address)); // the grant goes with it on every version
        pendingPhoto = photo.getPath();
        screen.startActivityForResult(take.addFlags(grants), CAMERA);
    }

    void onResult(int request, int result, Intent data) {
        Uri picked = data == null ? null : data.getData();
        File photo = pendingPhoto == null ? null : new File(pendingPhoto);
        if (request == CAMERA) {
            pendingPhoto = null;
        }
        boolean isThere = request == CAMERA ? photo != null : picked != null;
        if (result != Activity.RESULT_OK || !isThere) {
            if (request == CAMERA && photo != null) {
                photo.delete();
            }
            return;
        }
        if (request == CAMERA) {
            intake.take(photo);
        } else {
            intake.take(picked, request == SOUND ? Attachment.Kind.AUDIO : Attachment.Kind.IMAGE);
        }
    }
}
